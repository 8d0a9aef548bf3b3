"""Periodic maintenance: prunes old rows, refreshes gauges, audits stock, ledger and reservations.

While the database is unavailable it retries without logging. Any other error is logged and retried as well: no bug
here is a reason to stop consuming.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias

from engine import metrics
from engine.backoff import Backoff
from storage import answers, gauges, levels, load, retention
from storage.audit import QUICK_STATEMENT_TIMEOUT_SECONDS, AuditResult, AuditTimeoutError, quick_audit
from storage.database import Connection, Pool
from storage.errors import in_words, is_contention, is_unavailable
from storage.gauges import Partition

logger = logging.getLogger(__name__)

PRUNE_STEP = 5_000
# Bounds one run of pruning, so that gauges and audit are not held up; the rest is pruned in the next run, at once.
MAX_PRUNE_STEPS = 20
STANDSTILL_SECONDS = 60.0
FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 10.0
MIN_PAUSE_SECONDS = 0.05
# How many violations of each check are logged one by one.
MAX_LOGGED = 3

_Prune: TypeAlias = Callable[[Connection, datetime, int], Awaitable[int]]


class MaintenanceOptions(NamedTuple):
    """How long rows are kept, and how often each duty is due."""

    inbox_retention: timedelta
    outbox_retention: timedelta
    retention_interval_seconds: float = 60.0
    audit_interval_seconds: float = 600.0
    gauge_interval_seconds: float = 5.0


class Maintained(NamedTuple):
    """What one run did: rows pruned, and the violations found, None when no audit was due."""

    inbox_pruned: int = 0
    outbox_pruned: int = 0
    violations: int | None = None


class Maintenance:
    """Runs each duty when it is due; `clock` decides what is old, `monotonic` (seconds) what is due."""

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
        # Position at which pruning of the outbox goes on: old rows before it are unpublished and stay. 0 is the start.
        self._outbox_pruned_to = 0
        self._watermark: datetime | None = None
        self._watermark_since = now
        self._standstill_reported = False

    async def run(self) -> None:
        """Run duties until cancelled."""
        backoff = Backoff(FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS)
        while True:
            try:
                await self.run_once()
            except Exception as error:
                if is_unavailable(error) or is_contention(error):
                    logger.debug("Maintenance failed (%s); trying again", in_words(error))
                else:
                    logger.exception("Maintenance failed; trying again")
                await backoff.wait()
            else:
                backoff.reset()
            due = min(self._gauges_due, self._retention_due, self._audit_due)
            await asyncio.sleep(max(due - self._monotonic(), MIN_PAUSE_SECONDS))

    async def run_once(self) -> Maintained:
        """Run what is due now: gauges, then retention, then the audit; a duty that fails is due after its interval."""
        now = self._monotonic()
        options = self._options
        inbox_pruned = outbox_pruned = 0
        violations: int | None = None
        if now >= self._gauges_due:
            self._gauges_due = now + options.gauge_interval_seconds
            await self.refresh_gauges()
        if now >= self._retention_due:
            self._retention_due = now + options.retention_interval_seconds
            forgotten_before = await self._low_watermark() - options.inbox_retention
            inbox_pruned = await self._prune(retention.prune_inbox, forgotten_before)
            await self._prune(answers.prune_answers, forgotten_before)
            outbox_pruned = await self._prune_outbox(self._clock() - options.outbox_retention)
            await self._merge_level_marks()
            if inbox_pruned == PRUNE_STEP * MAX_PRUNE_STEPS or self._outbox_pruned_to:
                self._retention_due = now
            if inbox_pruned or outbox_pruned:
                logger.info("Pruned %d inbox rows and %d outbox rows", inbox_pruned, outbox_pruned)
        if now >= self._audit_due:
            self._audit_due = now + options.audit_interval_seconds
            violations = await self._scheduled_audit()
        return Maintained(inbox_pruned, outbox_pruned, violations)

    async def refresh_gauges(self) -> None:
        """Set the gauges: parked events, low stock, the outbox's backlog, and how far the low watermark lags."""
        async with self._pool.acquire() as connection:
            read = await gauges.read_gauges(connection)
        now = self._clock()
        metrics.PARKED_EVENTS.set(read.parked_events)
        metrics.LOW_STOCK_PRODUCTS.set(read.low_stock_products)
        metrics.OUTBOX_PENDING.set(read.outbox_pending)
        metrics.OUTBOX_PARKED.set(read.outbox_unpublishable)
        metrics.OUTBOX_OLDEST.set(_age(read.outbox_oldest, now))
        metrics.LEVELS_OLDEST.set(_age(read.levels_oldest, now))
        metrics.WATERMARK_LAG.set(_age(read.slowest and read.slowest.watermark, now))
        if read.slowest is not None:
            self._watch_low_watermark(read.slowest, now)

    async def _scheduled_audit(self) -> int | None:
        """Run the audit and return the violations; None, and a warning, where it does not end in time."""
        try:
            return (await self.audit()).violations
        except AuditTimeoutError:
            logger.warning(
                "The audit did not end within %.0f s, so stock, ledger and reservations were not checked; it is tried "
                "again in %.0f s. If this repeats, run `inventory audit`, which has an hour for each statement, and "
                "check that the database is vacuumed and not overloaded",
                QUICK_STATEMENT_TIMEOUT_SECONDS,
                self._options.audit_interval_seconds,
            )
            return None

    async def audit(self) -> AuditResult:
        """Run the quick audit; each violation is logged as an error."""
        async with self._pool.acquire() as connection:
            result = await quick_audit(connection)
        metrics.INVARIANT_VIOLATIONS.set(result.violations)
        for check in result.checks:
            for violation in check.examples[:MAX_LOGGED]:
                logger.error(
                    "Audit violation (%s) of %s: %s",
                    check.rule,
                    violation.product_id or violation.order_id or violation.cart_id,
                    ", ".join(f"{name} {value}" for name, value in violation.numbers.items()),
                )
        if result.violations:
            logger.error("The audit found %d violations; `inventory audit` lists them", result.violations)
        return result

    async def _low_watermark(self) -> datetime:
        """Return the time against which inbox rows age.

        Not the time of day: a worker that died between its database commit and its offset commit may be restarted
        after more than the inbox's retention, and its batch is then redelivered.
        """
        async with self._pool.acquire() as connection:
            return await load.low_watermark(connection)

    async def _prune(self, prune: _Prune, before: datetime) -> int:
        """Prune in bounded steps, each a transaction, until nothing old is left or the bound is reached."""
        pruned = 0
        for _ in range(MAX_PRUNE_STEPS):
            async with self._pool.acquire() as connection:
                step = await prune(connection, before, PRUNE_STEP)
            pruned += step
            if step < PRUNE_STEP:
                break
        return pruned

    async def _prune_outbox(self, before: datetime) -> int:
        """Prune a bounded number of slices of the outbox; the next run goes on behind them, until none is old."""
        pruned = 0
        for _ in range(MAX_PRUNE_STEPS):
            async with self._pool.acquire() as connection:
                step, next_position = await retention.prune_outbox(
                    connection, before, PRUNE_STEP, self._outbox_pruned_to
                )
            pruned += step
            self._outbox_pruned_to = next_position or 0
            if next_position is None:
                break
        return pruned

    async def _merge_level_marks(self) -> None:
        """Keep the marks of unpublished levels bounded by the number of products, also where nobody publishes."""
        for _ in range(MAX_PRUNE_STEPS):
            async with self._pool.acquire() as connection:
                if not await levels.merge_marks(connection):
                    break

    def _watch_low_watermark(self, slowest: Partition, now: datetime) -> None:
        """Log once that the low watermark stands still, with the partition to blame, and once that it moves."""
        if slowest.watermark != self._watermark:
            if self._standstill_reported:
                logger.info("The low watermark advances again; holds expire")
            self._watermark, self._watermark_since = slowest.watermark, self._monotonic()
            self._standstill_reported = False
        elif not self._standstill_reported and self._monotonic() - self._watermark_since > STANDSTILL_SECONDS:
            self._standstill_reported = True
            logger.warning(
                "The low watermark has not advanced for %.0f s and is %.0f s behind: no hold expires until "
                "partition %d of %s is read further. Check that a worker consumes it; if the topic was deleted, "
                "delete its rows from stream_progress",
                self._monotonic() - self._watermark_since,
                _age(slowest.watermark, now),
                slowest.partition,
                slowest.topic,
            )


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max((now - since).total_seconds(), 0.0)
