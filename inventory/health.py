"""Health, as an orchestrator asks for it.

`/livez` is progress: the group has assigned partitions (none, where workers outnumber them), Kafka answers fetches,
and where there is lag, batches are applied. A worker that waits for its database or was paused by the flood breaker is
alive: a restart would not help.
`/readyz` is able to work: partitions assigned, database answering, not paused, no gap in the stream that nobody has
acknowledged.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from faststream.asgi import AsgiResponse, get

from storage.database import Connection, connect
from storage.errors import in_words
from workers.consuming.consumer import Consumer
from workers.consuming.status import ConsumerStatus

POLL_LIMIT_SECONDS = 60.0
PROGRESS_LIMIT_SECONDS = 120.0
DATABASE_LIMIT_SECONDS = 2.0
# For how long one answer of the database serves all requests, whichever it was.
ANSWER_SECONDS = 1.0


class Health:
    """Answers from the consumer's status and the database's."""

    def __init__(self, database: "DatabaseProbe", consumer: Consumer | None) -> None:
        self._database = database
        self._consumer = consumer

        @get(include_in_schema=False)
        async def livez(_scope: object) -> AsgiResponse:
            return _answer(None if consumer is None else why_not_alive(consumer.status()))

        @get(include_in_schema=False)
        async def readyz(_scope: object) -> AsgiResponse:
            return _answer(await self.why_not_ready())

        self.livez = livez
        self.readyz = readyz

    async def why_not_ready(self) -> str | None:
        """Return why no work can be done now, or None."""
        reason = None if self._consumer is None else why_not_consuming(self._consumer.status())
        return reason or await self._database.why_unavailable()

    async def close(self) -> None:
        """Close the connection; never raises."""
        await self._database.close()


# Asks a database for a reason why no work should be done on it.
FindProblem = Callable[[Connection], Awaitable[str | None]]


async def find_none(connection: Connection) -> str | None:
    """Find no reason, as long as the database answers."""
    await connection.fetchval("SELECT 1")
    return None


def probe_database(url: str, find_problem: FindProblem = find_none) -> "DatabaseProbe":
    """Return the probe of the database at `url`."""
    return DatabaseProbe(lambda: connect(url, "inventory-health"), find_problem=find_problem)


class DatabaseProbe:
    """Asks the database whether it answers: on one connection of its own, and at most once a second.

    The connection is not the pool's, so that health neither waits for the work nor delays it. It is opened when first
    needed and again after each failure.
    """

    def __init__(
        self,
        open_connection: Callable[[], Awaitable[Connection]],
        monotonic: Callable[[], float] = time.monotonic,
        find_problem: FindProblem = find_none,
    ) -> None:
        self._open_connection = open_connection
        self._monotonic = monotonic
        self._find_problem = find_problem
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self._reason: str | None = None
        self._answer_expires_at = -1.0

    async def why_unavailable(self) -> str | None:
        """Return why the database cannot be used, or None; concurrent callers share one query."""
        async with self._lock:
            if self._monotonic() >= self._answer_expires_at:
                self._reason = await self._ask()
                self._answer_expires_at = self._monotonic() + ANSWER_SECONDS
            return self._reason

    async def close(self) -> None:
        """Close the connection; never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.close(timeout=DATABASE_LIMIT_SECONDS)

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(DATABASE_LIMIT_SECONDS):
                if self._connection is None:
                    self._connection = await self._open_connection()
                return await self._find_problem(self._connection)
        except BaseException as error:
            # In whatever state the failure left the connection, it is not used again.
            self._drop()
            # A cut connection raises more than database errors (asyncpg.InternalClientError is none): each means 503.
            if not isinstance(error, Exception):
                raise
            return f"the database does not answer: {in_words(error)}"

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.terminate()


def why_not_alive(status: ConsumerStatus) -> str | None:
    """Return what is wrong enough for a restart, or None."""
    if status.waits_because is not None or status.paused_because is not None:
        return None
    if status.joining_seconds is not None and status.joining_seconds > status.joining_limit_seconds:
        return f"the consumer group has not assigned partitions for {status.joining_seconds:.0f} s"
    if status.poll_age is not None and status.poll_age > POLL_LIMIT_SECONDS:
        return f"Kafka has not answered a fetch for {status.poll_age:.0f} s"
    if status.lag_records > 0 and status.progress_age > PROGRESS_LIMIT_SECONDS:
        return f"no batch was applied for {status.progress_age:.0f} s, with a lag of {status.lag_records} records"
    return None


def why_not_consuming(status: ConsumerStatus) -> str | None:
    """Return why no batch can be applied now, whatever the database says, or None."""
    if status.paused_because is not None:
        return f"paused: {status.paused_because}"
    if status.waits_because is not None:
        return f"a batch waits for the database: {status.waits_because}"
    if not status.assigned:
        return "no partitions assigned"
    return None


def _answer(reason: str | None) -> AsgiResponse:
    return AsgiResponse((reason or "ok").encode() + b"\n", 200 if reason is None else 503)
