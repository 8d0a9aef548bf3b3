"""COMMIT, which waits for a synchronous standby for as long as that takes.

A COMMIT that is cancelled while it waits is kept all the same: the server answers with a warning, and from then on
others see rows that the standby may not have. The relay would publish them, and after a failover the database would not
know them. `statement_timeout` does not end a COMMIT, but the client would, by its own time limit or because the task is
cancelled. So nothing here ever asks the server to cancel it.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from storage import database
from storage.database import Connection, Pool

logger = logging.getLogger(__name__)

# How often the server is asked why a COMMIT takes so long.
INQUIRY_SECONDS = 5.0
INQUIRY_LIMIT_SECONDS = 2.0
# asyncpg has no value for "no limit" where the connection has one of its own.
NO_LIMIT_SECONDS = 365 * 86_400.0
STANDBY = "the commit waits for a synchronous standby to confirm it"

_WAIT_EVENT = "SELECT wait_event FROM pg_stat_activity WHERE pid = $1"


async def commit(pool: Pool, connection: Connection, on_wait: Callable[[str], None] | None = None) -> None:
    """Commit the transaction and return when the server has confirmed it.

    `on_wait` is called with the reason while the server waits for a standby, which has no limit. For any other reason
    the limit is that of a statement; then, and where the task is cancelled, the connection is dropped
    without asking the server to cancel. Whether the transaction is committed is unknown then; it is not visible before
    a standby has confirmed it.
    """
    committing = asyncio.ensure_future(connection.execute("COMMIT;", timeout=NO_LIMIT_SECONDS))
    try:
        if not (await asyncio.wait({committing}, timeout=INQUIRY_SECONDS))[0]:
            await _wait(pool, connection, committing, on_wait)
    except BaseException:
        committing.add_done_callback(_ignore)
        connection.terminate()
        raise
    committing.result()


async def _wait(
    pool: Pool, connection: Connection, committing: "asyncio.Future[Any]", on_wait: Callable[[str], None] | None
) -> None:
    """Return when the commit is answered; raises TimeoutError when the server has neither answered nor said why."""
    process_id = connection.get_server_pid()
    clock = asyncio.get_running_loop().time
    explained_at = clock()
    connection.add_log_listener(_log_notice)
    try:
        while not committing.done():
            if await _waits_for_standby(pool, process_id):
                explained_at = clock()
                if on_wait is not None:
                    on_wait(STANDBY)
            elif clock() - explained_at > database.COMMAND_TIMEOUT_SECONDS:
                message = "the server has not answered COMMIT"
                raise TimeoutError(message)
            await asyncio.wait({committing}, timeout=INQUIRY_SECONDS)
    finally:
        if not connection.is_closed():
            connection.remove_log_listener(_log_notice)


async def _waits_for_standby(pool: Pool, process_id: int) -> bool:
    """Say whether the server process waits for synchronous replication; False where that cannot be found out."""
    try:
        async with asyncio.timeout(INQUIRY_LIMIT_SECONDS), pool.acquire() as other:
            return bool(await other.fetchval(_WAIT_EVENT, process_id) == "SyncRep")
    except Exception as error:  # noqa: BLE001 - the limit in `_wait` decides
        logger.debug("Cannot find out why COMMIT takes so long: %s", error)
        return False


def _log_notice(_connection: object, notice: Any) -> None:  # noqa: ANN401 - asyncpg is untyped
    """Log the server's warning that an operator ended the wait."""
    logger.warning("The server answered COMMIT with a warning: %s (%s)", notice.message, notice.detail)


def _ignore(committing: "asyncio.Future[Any]") -> None:
    """Retrieve the error of a commit whose connection was dropped, or asyncio would log it."""
    if not committing.cancelled():
        committing.exception()
