"""Health, as an orchestrator asks for it.

`/livez` is progress: the consumer was told its partitions (none, where workers outnumber them), asks Kafka for
records, and where records wait, they get done. A worker that waits for its database or was paused by the flood breaker
is alive: a restart would not help.
`/readyz` is able to work: partitions assigned, database answering, not paused.
"""

import asyncio
import time

import asyncpg
from faststream.asgi import AsgiResponse, get

from storage.database import Pool
from workers.consuming.consumer import Consumer

POLL_LIMIT_SECONDS = 60.0
PROGRESS_LIMIT_SECONDS = 120.0
DATABASE_LIMIT_SECONDS = 2.0


class Health:
    """Answers from what the consumer and the pool say of themselves."""

    def __init__(self, pool: Pool, consumer: Consumer | None) -> None:
        self._pool = pool
        self._consumer = consumer

        @get(include_in_schema=False)
        async def livez(_scope: object) -> AsgiResponse:
            return _answer(self.not_alive())

        @get(include_in_schema=False)
        async def readyz(_scope: object) -> AsgiResponse:
            return _answer(await self.not_ready())

        self.livez = livez
        self.readyz = readyz

    def not_alive(self) -> str | None:
        """Return what is wrong enough for a restart, or None."""
        consumer = self._consumer
        if consumer is None or consumer.waits_for_database or consumer.paused_because is not None:
            return None
        joining = consumer.overdue_in_joining()
        if joining is not None:
            return f"the group has given no answer about partitions since {joining:.0f} s"
        asked = consumer.last_poll_age()
        if asked is not None and asked > POLL_LIMIT_SECONDS:
            return f"no records were asked for since {asked:.0f} s"
        still = time.monotonic() - consumer.last_progress
        if consumer.lag > 0 and still > PROGRESS_LIMIT_SECONDS:
            return f"{consumer.lag} records wait and nothing was done since {still:.0f} s"
        return None

    async def not_ready(self) -> str | None:
        """Return why no work can be done now, or None."""
        consumer = self._consumer
        if consumer is not None:
            if consumer.paused_because is not None:
                return f"paused: {consumer.paused_because}"
            if not consumer.assigned:
                return "no partitions assigned"
        try:
            async with asyncio.timeout(DATABASE_LIMIT_SECONDS), self._pool.acquire() as connection:
                await connection.fetchval("SELECT 1")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            return f"the database does not answer: {error or type(error).__name__}"
        return None


def _answer(trouble: str | None) -> AsgiResponse:
    return AsgiResponse((trouble or "ok").encode() + b"\n", 200 if trouble is None else 503)
