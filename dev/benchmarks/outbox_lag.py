"""How much waits in the outbox while something else is measured."""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Self

import asyncpg

from dev.benchmarks.report import Figure
from storage import outbox

SAMPLE_SECONDS = 0.1


class OutboxLag:
    """Looks at the outbox ten times a second inside the block."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._pending: list[int] = []
        self._oldest_ms: list[float] = []

    async def __aenter__(self) -> Self:
        self._connection = await asyncpg.connect(self._database_url)
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._connection.close()

    def figures(self) -> list[Figure]:
        """Return what the looks found: the typical and the worst."""
        pending, oldest = sorted(self._pending) or [0], sorted(self._oldest_ms) or [0.0]
        return [
            Figure("outbox rows waiting, median look", "rows", (pending[len(pending) // 2],)),
            Figure("outbox rows waiting, worst look", "rows", (pending[-1],)),
            Figure("oldest outbox row, median look", "ms", (oldest[len(oldest) // 2],)),
            Figure("oldest outbox row, worst look", "ms", (oldest[-1],)),
        ]

    async def _look(self) -> None:
        while True:
            waiting, oldest = await outbox.backlog(self._connection)
            self._pending.append(waiting)
            age = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
            self._oldest_ms.append(1000 * max(age, 0.0))
            await asyncio.sleep(SAMPLE_SECONDS)
