"""Samples the outbox's backlog while something else is measured."""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Self

import asyncpg

from dev.benchmarks.report import Figure
from storage import outbox

SAMPLE_SECONDS = 0.1


class OutboxLag:
    """Samples the outbox ten times a second inside the block."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._pending: list[int] = []
        self._oldest_ms: list[float] = []

    async def __aenter__(self) -> Self:
        self._connection = await asyncpg.connect(self._database_url)
        self._task = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._connection.close()

    def figures(self) -> list[Figure]:
        """Return median and worst sample."""
        pending, oldest = sorted(self._pending) or [0], sorted(self._oldest_ms) or [0.0]
        return [
            Figure("unpublished outbox rows, median", "rows", (pending[len(pending) // 2],)),
            Figure("unpublished outbox rows, worst", "rows", (pending[-1],)),
            Figure("age of the oldest unpublished row, median", "ms", (oldest[len(oldest) // 2],)),
            Figure("age of the oldest unpublished row, worst", "ms", (oldest[-1],)),
        ]

    async def _sample(self) -> None:
        while True:
            waiting, oldest = await outbox.backlog(self._connection)
            self._pending.append(waiting)
            age = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
            self._oldest_ms.append(1000 * max(age, 0.0))
            await asyncio.sleep(SAMPLE_SECONDS)
