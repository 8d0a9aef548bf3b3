"""Writes that arrive together commit together: requests are gathered into batches, each one call of `execute`.

When nothing is under way a request is applied at once, with those that arrived in the same moment. While a batch is
under way the next one gathers, for a few milliseconds at most. The queue is bounded: a request that finds no room in it
is refused with 503. A batch that fails is applied in halves until the request that made it fail is alone; the identity
of a request makes it safe to apply one half twice.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from api import metrics
from api.problems import ProblemError
from domain.model import Policy
from engine import metrics as engine_metrics
from engine.execute import execute
from engine.tasks import BatchResult, RequestTask, Verdict
from storage.database import Pool
from storage.errors import is_contention, is_unavailable

logger = logging.getLogger(__name__)

GATHER_SECONDS: Final = 0.003


@dataclass(frozen=True, slots=True)
class GatherLimits:
    """How many writes may wait or be under way, share a transaction, and how many transactions run side by side."""

    queue: int
    batch: int
    transactions: int


class _Waiting(NamedTuple):
    task: RequestTask
    answered: "asyncio.Future[Verdict]"


class Gatherer:
    """Applies requests in batches; `apply` for each, `close()` in the end."""

    def __init__(
        self,
        pool: Pool,
        policy: Policy,
        limits: GatherLimits,
        clock: Callable[[], datetime],
        after_commit: Callable[[BatchResult], None],
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._limits = limits
        self._clock = clock
        self._after_commit = after_commit
        self._queue: deque[_Waiting] = deque()
        self._size = 0
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None

    async def apply(self, task: RequestTask) -> Verdict:
        """Apply one request with its neighbours and return what became of it.

        Raises ProblemError where the queue is full, and otherwise whatever this very request makes `execute` raise.
        """
        if self._size >= self._limits.queue:
            raise ProblemError("overloaded", "Please try again in a moment.")
        answered: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(task, answered))
        self._resize(1)
        self._schedule()
        return await answered

    async def close(self) -> None:
        """Finish what was begun."""
        while self._running or self._queue:
            self._launch()
            await asyncio.wait(self._running)

    def _resize(self, change: int) -> None:
        self._size += change
        metrics.QUEUED_WRITES.set(self._size)

    def _schedule(self) -> None:
        """Launch a batch: in this turn of the loop when idle, else when one ends or has taken too long."""
        if not self._queue or self._timer is not None or len(self._running) >= self._limits.transactions:
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(GATHER_SECONDS, self._launch) if self._running else loop.call_soon(self._launch)

    def _launch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._queue or len(self._running) >= self._limits.transactions:
            return
        batch = [self._queue.popleft() for _ in range(min(self._limits.batch, len(self._queue)))]
        running = asyncio.create_task(self._run(batch), name="writes")
        self._running.add(running)
        running.add_done_callback(self._ended)
        self._schedule()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        # What gathered meanwhile has waited long enough.
        self._launch()

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        metrics.BATCH_SIZE.observe(len(batch))
        try:
            await self._apply(batch)
        except BaseException as error:
            for waiting in batch:
                if not waiting.answered.done():
                    waiting.answered.set_exception(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._resize(-len(batch))

    async def _apply(self, batch: Sequence[_Waiting]) -> None:
        try:
            result = await execute(self._pool, [waiting.task for waiting in batch], self._policy, self._clock())
        except Exception as error:
            if len(batch) == 1 or is_unavailable(error) or is_contention(error):
                raise
            logger.warning("A batch of %d requests failed; applying it in halves to find the one", len(batch))
        else:
            engine_metrics.RESERVATIONS_EXPIRED.inc(result.expired)
            self._after_commit(result)
            for waiting, verdict in zip(batch, result.verdicts, strict=True):
                if not waiting.answered.done():  # a caller that waited too long has gone
                    waiting.answered.set_result(verdict)
            return
        half = len(batch) // 2
        for part in (batch[:half], batch[half:]):
            try:
                await self._apply(part)
            except Exception as error:  # noqa: BLE001 - the neighbours of whatever it is go on
                for waiting in part:
                    if not waiting.answered.done():
                        waiting.answered.set_exception(error)
