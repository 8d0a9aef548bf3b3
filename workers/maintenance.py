"""Housekeeping beside the stream: old rows are pruned, gauges refreshed, the books audited on a schedule.

A database that is away is tried again without a word; whatever else goes wrong here is logged and tried again
at the next turn, because nothing here is worth stopping the shop for.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias

from engine import metrics
from storage import gauges, load, retention
from storage.audit import AuditResult, quick_audit
from storage.database import Connection, Pool
from storage.errors import is_contention, is_unavailable
from storage.gauges import Partition

logger = logging.getLogger(__name__)

PRUNE_STEP = 5_000
# After so many steps others get their turn; what is left is pruned in the next, without a pause.
MAX_PRUNE_STEPS = 20
STANDSTILL_SECONDS = 60.0
RETRY_SECONDS = 5.0
# How many violations of each check are named in the log.
MAX_LOGGED = 3

_Prune: TypeAlias = Callable[[Connection, datetime, int], Awaitable[int]]


class MaintenanceOptions(NamedTuple):
    """How long things are kept, and how often to look."""

    inbox_retention: timedelta
    outbox_retention: timedelta
    retention_interval_seconds: float = 60.0
    audit_interval_seconds: float = 600.0
    gauge_interval_seconds: float = 5.0


class Maintained(NamedTuple):
    """What one turn did: rows pruned, and the violations found where the books were audited."""

    inbox_pruned: int = 0
    outbox_pruned: int = 0
    violations: int | None = None


class Maintenance:
    """Does what is due; `run_once()` is one turn, `run()` goes on until cancelled.

    `clock` says what is old; `monotonic` (seconds) says what is due.
    """

    def __init__(
        self,
        pool: Pool,
        options: MaintenanceOptions,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._options = options
        self._clock = clock
        self._monotonic = monotonic
        now = monotonic()
        self._gauges_due = now
        # Workers that start together do not prune and audit together.
        self._retention_due = now + options.retention_interval_seconds * random.random()  # noqa: S311 - jitter
        self._audit_due = now + options.audit_interval_seconds * random.random()  # noqa: S311 - jitter
        self._watermark: datetime | None = None
        self._watermark_since = now
        self._told_standstill = False

    async def run(self) -> None:
        """Keep house for as long as the task lives."""
        while True:
            try:
                await self.run_once()
            except Exception as error:
                if is_unavailable(error) or is_contention(error):
                    logger.debug("Housekeeping waits: %s", error)
                else:
                    logger.exception("Housekeeping failed; it is tried again")
                await asyncio.sleep(RETRY_SECONDS)
            due = min(self._gauges_due, self._retention_due, self._audit_due)
            await asyncio.sleep(max(due - self._monotonic(), 0.05))

    async def run_once(self) -> Maintained:
        """Do what is due now: gauges, then retention, then the audit. What fails is due again at its next interval."""
        now = self._monotonic()
        options = self._options
        inbox_pruned = outbox_pruned = 0
        violations: int | None = None
        if now >= self._gauges_due:
            self._gauges_due = now + options.gauge_interval_seconds
            await self.refresh_gauges()
        if now >= self._retention_due:
            self._retention_due = now + options.retention_interval_seconds
            inbox_pruned = await self._prune(retention.prune_inbox, await self._read_up_to() - options.inbox_retention)
            outbox_pruned = await self._prune(retention.prune_outbox, self._clock() - options.outbox_retention)
            if max(inbox_pruned, outbox_pruned) == PRUNE_STEP * MAX_PRUNE_STEPS:
                self._retention_due = now
            if inbox_pruned or outbox_pruned:
                logger.info("Pruned %d inbox rows and %d outbox rows", inbox_pruned, outbox_pruned)
        if now >= self._audit_due:
            self._audit_due = now + options.audit_interval_seconds
            violations = (await self.audit()).violations
        return Maintained(inbox_pruned, outbox_pruned, violations)

    async def refresh_gauges(self) -> None:
        """Measure what waits and what runs short, and how far the stream's clock is behind."""
        async with self._pool.acquire() as connection:
            read = await gauges.read_gauges(connection)
        now = self._clock()
        metrics.PARKED_EVENTS.set(read.parked_events)
        metrics.LOW_STOCK_PRODUCTS.set(read.low_stock_products)
        metrics.OUTBOX_PENDING.set(read.outbox_pending)
        metrics.OUTBOX_OLDEST.set(_age(read.outbox_oldest, now))
        metrics.WATERMARK_LAG.set(_age(read.slowest and read.slowest.watermark, now))
        if read.slowest is not None:
            self._watch(read.slowest, now)

    async def audit(self) -> AuditResult:
        """Audit the books as far as a running worker can afford it; disagreements are errors in the log."""
        async with self._pool.acquire() as connection:
            result = await quick_audit(connection)
        metrics.INVARIANT_VIOLATIONS.set(result.violations)
        for check in result.checks:
            for violation in check.examples[:MAX_LOGGED]:
                logger.error(
                    "The books disagree (%s): %s: %s",
                    check.rule,
                    violation.product_id or violation.order_id or violation.cart_id,
                    ", ".join(f"{name} {value}" for name, value in violation.numbers.items()),
                )
        if result.violations:
            logger.error("The books disagree in %d places; `inventory audit` names them", result.violations)
        return result

    async def _read_up_to(self) -> datetime:
        """Return the stream's clock, by which ids are remembered; the wall's where no stream was ever read.

        Behind it, an event that is in the tables may still be delivered again: a worker that died between its two
        commits may come back after more than the inbox's retention.
        """
        now = self._clock()
        async with self._pool.acquire() as connection:
            low_watermark = await load.low_watermark(connection)
        return now if low_watermark is None else min(low_watermark, now)

    async def _prune(self, prune: _Prune, before: datetime) -> int:
        """Prune in bounded steps, each its own transaction, until nothing old is left or others should have a turn."""
        pruned = 0
        for _ in range(MAX_PRUNE_STEPS):
            async with self._pool.acquire() as connection:
                step = await prune(connection, before, PRUNE_STEP)
            pruned += step
            if step < PRUNE_STEP:
                break
        return pruned

    def _watch(self, slowest: Partition, now: datetime) -> None:
        """Say once that the stream's clock stands still and why, and once that it moves again."""
        if slowest.watermark != self._watermark:
            if self._told_standstill:
                logger.info("The stream's clock moves again; holds expire")
            self._watermark, self._watermark_since = slowest.watermark, self._monotonic()
            self._told_standstill = False
        elif not self._told_standstill and self._monotonic() - self._watermark_since > STANDSTILL_SECONDS:
            self._told_standstill = True
            logger.warning(
                "The stream's clock has stood still for %.0f s, %.0f s behind: no hold expires until partition %d of "
                "%s is read further. Is its worker consuming? If the topic is gone, delete its rows in stream_progress",
                self._monotonic() - self._watermark_since,
                _age(slowest.watermark, now),
                slowest.partition,
                slowest.topic,
            )


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max((now - since).total_seconds(), 0.0)
