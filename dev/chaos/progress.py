"""How far the workers have come, read from the database around the proxy; an unavailable database is asked again."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping

import asyncpg

from dev.chaos.cluster import Deployment

POLL_SECONDS = 0.05
BEHIND_SECONDS = 1.0
CALM_SECONDS = 2.0

Ends = Mapping[tuple[str, int], int]


class ProgressMonitor:
    """Polls `stream_progress` and the unpublished rows."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._connection: asyncpg.Connection | None = None
        # Both lanes of faults poll, and a connection runs one query at a time.
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close(timeout=2)

    async def until_applied(self, ends: Ends, timeout_seconds: float) -> float | None:
        """Return the seconds until everything before `ends` was applied; None on time-out."""
        started = time.monotonic()
        while time.monotonic() - started < timeout_seconds:
            rows = await self._fetch("SELECT topic, partition, next_offset FROM stream_progress")
            if rows is not None:
                read = {(row[0], row[1]): row[2] for row in rows}
                if all(read.get(place, 0) >= end for place, end in ends.items()):
                    return time.monotonic() - started
            await asyncio.sleep(POLL_SECONDS)
        return None

    async def until_keeping_up(self, acknowledged: Callable[[], Ends], timeout_seconds: float) -> float | None:
        """Return the seconds until the workers stopped being behind for good; None on time-out.

        They are behind while a record acknowledged a second ago is not applied. Under steady traffic a fault shows
        within that second, so workers that are not behind for CALM_SECONDS have recovered.
        """
        started = time.monotonic()
        last_behind = started
        ends: deque[tuple[float, Ends]] = deque()
        while (now := time.monotonic()) - started < timeout_seconds:
            ends.append((now, acknowledged()))
            while len(ends) > 1 and ends[1][0] <= now - BEHIND_SECONDS:
                ends.popleft()
            acknowledged_at, wanted = ends[0]
            if acknowledged_at <= now - BEHIND_SECONDS and await self.behind(wanted) != 0:
                last_behind = time.monotonic()
            elif now - last_behind > CALM_SECONDS:
                return last_behind - started
            await asyncio.sleep(POLL_SECONDS)
        return None

    async def behind(self, ends: Ends) -> int | None:
        """Return how many records before `ends` are not applied; None while the database is unavailable."""
        rows = await self._fetch("SELECT topic, partition, next_offset FROM stream_progress")
        if rows is None:
            return None
        read = {(row[0], row[1]): row[2] for row in rows}
        left: int = sum(max(end - read.get(place, 0), 0) for place, end in ends.items())
        return left

    async def until_published(self, timeout_seconds: float) -> bool:
        """Wait until every outgoing event and dead letter is published; false on time-out."""
        started = time.monotonic()
        while time.monotonic() - started < timeout_seconds:
            rows = await self._fetch(
                "SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL)"
                " + (SELECT count(*) FROM dead_letters WHERE published_at IS NULL AND publish_error IS NULL)"
            )
            if rows is not None and rows[0][0] == 0:
                return True
            await asyncio.sleep(POLL_SECONDS)
        return False

    async def _fetch(self, statement: str) -> list[asyncpg.Record] | None:
        async with self._lock:
            return await self._query(statement)

    async def _query(self, statement: str) -> list[asyncpg.Record] | None:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self._deployment.database_url, timeout=2, command_timeout=5)
            found: list[asyncpg.Record] = await self._connection.fetch(statement)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            if self._connection is not None:
                self._connection.terminate()
            self._connection = None
            return None
        return found
