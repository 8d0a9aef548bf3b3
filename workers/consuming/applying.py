"""Applying a batch: one at a time, tried again until the database accepts it."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from domain.model import Policy
from engine.anchor import DatabaseWentBackError
from engine.backoff import Backoff
from engine.crash import crash_on_bug
from engine.execute import execute
from engine.tasks import BatchResult, Task
from storage.database import Pool
from storage.errors import in_words, is_suspect, is_unavailable
from workers.consuming import traces
from workers.consuming.anchoring import AnchorKeeper
from workers.consuming.batches import Batch, tasks_of
from workers.consuming.measuring import measure_batch
from workers.consuming.records import DecodedRecord, InvalidRecord

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.05
LAST_RETRY_SECONDS = 2.0
# Attempts at a batch that the database may be unable to serve because of the batch itself, before it is halved.
ATTEMPTS_AS_A_WHOLE = 3


class BatchApplier:
    """Runs batches through `execute`; `on_finished` gets each with its result, or None when it was abandoned.

    Nothing is raised. An unavailable database is retried in place, because FastStream would swallow the exception and
    go on behind the lost batch; a database that went back ends the process (`AnchorKeeper`), and so does a bug.
    """

    def __init__(
        self,
        pool: Pool,
        policy: Policy,
        clock: Callable[[], datetime],
        anchors: AnchorKeeper,
        on_finished: Callable[[Batch, BatchResult | None], None],
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._clock = clock
        self._anchors = anchors
        self._on_finished = on_finished
        self._in_flight: asyncio.Task[None] | None = None
        self._stopping = False
        self.waits_because: str | None = None

    def start(self, batch: Batch) -> None:
        """Begin to apply `batch` in the background; the one before it must have finished."""
        self._in_flight = asyncio.create_task(self._apply(batch), name="batch")

    async def finished(self) -> None:
        """Return when no batch is in flight."""
        if self._in_flight is not None:
            await asyncio.shield(self._in_flight)

    async def finished_within(self, seconds: float) -> None:
        """Return when no batch is in flight, or after `seconds`."""
        if self._in_flight is not None:
            await asyncio.wait((self._in_flight,), timeout=seconds)

    def stop(self) -> None:
        """From now on, abandon a batch that the database does not accept; its records will be redelivered."""
        self._stopping = True

    async def _apply(self, batch: Batch) -> None:
        with crash_on_bug("A bug stopped this worker; its batch will be redelivered"):
            started = time.perf_counter()
            tasks = tasks_of(batch.items)
            with traces.batch_span(len(tasks), map(_traceparent, batch.items)):
                result = await self._until_applied(tasks, batch)
            self._on_finished(batch, result)
            if result is not None:
                measure_batch(batch, result, time.perf_counter() - started)

    async def _until_applied(self, tasks: Sequence[Task], batch: Batch) -> BatchResult | None:
        """Try until the database accepts the batch; None when asked to stop meanwhile."""
        backoff = Backoff(FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS)
        started = time.monotonic()
        suspected = 0
        while True:
            try:
                result = await execute(
                    self._pool,
                    tasks,
                    self._policy,
                    self._clock(),
                    progress=batch.progress,
                    anchor=self._anchors.current(),
                    isolate=suspected >= ATTEMPTS_AS_A_WHOLE,
                    on_wait=self._commit_waits,
                )
            except DatabaseWentBackError:
                await self._anchors.start_anew()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                suspected = suspected + 1 if is_suspect(error) else 0
                self._wait_because(in_words(error))
                if self._stopping:
                    return None
                await backoff.wait()
            else:
                self._anchors.committed(result.anchor)
                if self.waits_because is not None:
                    logger.info("The database is back after %.1f s", time.monotonic() - started)
                    self.waits_because = None
                return result

    def _commit_waits(self, reason: str) -> None:
        """Remember why the database does not confirm the batch, and log each reason once."""
        if reason != self.waits_because:
            logger.warning("The batch is not confirmed yet: %s; nothing of it is published meanwhile", reason)
            self.waits_because = reason

    def _wait_because(self, reason: str) -> None:
        """Remember why the database does not accept the batch, and log each reason once."""
        if reason != self.waits_because:
            logger.warning("The database is unavailable (%s); the batch is retried until it is back", reason)
            self.waits_because = reason


def _traceparent(item: DecodedRecord | InvalidRecord) -> str | None:
    return item.event.traceparent if isinstance(item, DecodedRecord) else None
