"""How a command reaches PostgreSQL, and the one line that it prints if it cannot."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from inventory.errors import OperatorError
from inventory.masking import mask_url
from inventory.settings import Settings
from storage.database import Connection, Pool, connect, open_pool
from storage.errors import is_unavailable

CLOSE_TIMEOUT_SECONDS = 10.0
QUERY_TIMEOUT_SECONDS = 30.0

Result = TypeVar("Result")


@asynccontextmanager
async def connection(settings: Settings) -> AsyncIterator[Connection]:
    """Give one asyncpg connection; raises OperatorError if the server cannot be used or has no inventory tables."""
    async with _opened(settings, connect(settings.database_url)) as connected:
        yield connected


async def query(settings: Settings, work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Return what `work` does with a connection; raises OperatorError also where that takes over 30 seconds."""
    async with connection(settings) as connected:
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_SECONDS):
                return await work(connected)
        except (TimeoutError, asyncpg.InterfaceError) as error:
            raise unreachable(settings, error) from error


@asynccontextmanager
async def pool(settings: Settings, name: str) -> AsyncIterator[Pool]:
    """Give a pool of one connection, as `engine.execute` wants it; raises OperatorError like `connection`."""
    async with _opened(settings, open_pool(settings.database_url, 1, name)) as opened:
        yield opened


@asynccontextmanager
async def migrated_pool(settings: Settings, name: str) -> AsyncIterator[Pool]:
    """Give a pool like `pool`; raises OperatorError also unless the database has the tables of this version."""
    async with pool(settings, name) as opened:
        async with opened.acquire() as first:
            await require_migrated(first)
        yield opened


@asynccontextmanager
async def _opened(settings: Settings, opening: Awaitable[Any]) -> AsyncIterator[Any]:
    try:
        opened = await opening
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise unreachable(settings, error) from error
    try:
        yield opened
    except asyncpg.UndefinedTableError as error:
        raise not_migrated(settings) from error
    except Exception as error:
        # Other OSErrors, such as a file that cannot be written, are not PostgreSQL's.
        other = isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError)
        if other or not is_unavailable(error):
            raise
        raise unreachable(settings, error) from error
    finally:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await opened.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            opened.terminate()


def unreachable(settings: Settings, error: BaseException) -> OperatorError:
    """Return the error for a PostgreSQL that does not answer or refuses the connection."""
    detail = str(error).splitlines()[0] if str(error) else type(error).__name__
    return OperatorError(
        f"PostgreSQL at {mask_url(settings.database_url)} cannot be used: {detail}; "
        "check that it runs, and INVENTORY_DATABASE_URL"
    )


def not_migrated(settings: Settings) -> OperatorError:
    """Return the error for a database without inventory tables."""
    return OperatorError(
        f"the database {mask_url(settings.database_url)} has no inventory tables: run `inventory migrate` first"
    )


async def require_migrated(opened: Connection) -> None:
    """Raise OperatorError unless the database has the tables of this version of the program."""
    from storage import migrate  # noqa: PLC0415 - alembic is slow to import, and most commands never need it

    found = await migrate.current_revision(opened)
    if found is None:
        raise OperatorError("the database has no inventory tables: run `inventory migrate` first")
    require_known(found)
    if found != migrate.newest_revision():
        raise OperatorError(
            f"the database is at revision {found} and this program needs {migrate.newest_revision()}: "
            "run `inventory migrate` first"
        )


def require_known(revision: str | None) -> None:
    """Raise OperatorError for a revision that is newer than this program."""
    from storage import migrate  # noqa: PLC0415 - same reason

    if revision is not None and revision not in migrate.known_revisions():
        raise OperatorError(
            f"the database is at revision {revision}, which this program does not know: a newer version migrated it; "
            "install that version or a newer one"
        )
