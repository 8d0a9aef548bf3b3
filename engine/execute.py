"""The one transaction: everything that moves stock goes through `execute`.

    inbox -> lock and load -> decide, folding event by event -> save -> commit

A call takes a batch of tasks and applies it whole or not at all, with a number of statements that does not depend on
the batch's size. Its result does not depend on how a stream was cut into batches.
"""

import asyncio
import contextlib
import dataclasses
import logging
import random
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from domain.model import Policy
from engine.anchor import Anchor, anchor_of
from engine.dead_letters import build_dead_letter
from engine.judge import judge
from engine.tasks import BatchResult, DeadLetterTask, EventTask, StageSeconds, Task
from engine.working_set import DueHolds, lock_and_load, missed_a_cart, save_changes
from storage.database import Connection, Pool
from storage.dead_letters import DeadLetterReason
from storage.errors import is_contention, is_data
from storage.save import PartitionProgress

logger = logging.getLogger(__name__)

# Retries of a batch that lost against other transactions, before that counts as a bug.
MAX_CONTENTION_RETRIES = 30
# Attempts in one transaction after another, each with due holds that the one before did not know. A batch that goes on
# finding more is applied in halves.
MAX_RESTARTS = 5


async def execute(  # noqa: PLR0913 - a transaction is these facts
    pool: Pool,
    tasks: Sequence[Task],
    policy: Policy,
    now: datetime,
    *,
    progress: Sequence[PartitionProgress] = (),
    skip_locked: bool = False,
    anchor: Anchor | None = None,
) -> BatchResult:
    """Apply `tasks` in one transaction and return, after the commit, what became of them.

    `progress` is recorded with them. `skip_locked` leaves out orders and carts that other transactions have locked (for
    the sweeper). Where the database no longer has the `anchor`, nothing is applied and
    `engine.anchor.DatabaseWentBackError` is raised.

    Contention is retried here, within bounds. A database that cannot be reached raises
    (`storage.errors.is_unavailable`): the caller waits and tries again. For an error in the data the batch is applied
    in halves, each in a transaction of its own, until the culprit is alone and is dead-lettered. A batch is halved as
    well when each expired hold uncovers another shortage; a single event needs two restarts at most.
    """
    return await _apply(pool, _Batch(tasks, policy, now, progress, skip_locked, anchor))


class _Batch(NamedTuple):
    """The arguments of `execute`."""

    tasks: Sequence[Task]
    policy: Policy
    now: datetime
    progress: Sequence[PartitionProgress]
    skip_locked: bool
    anchor: Anchor | None

    def halves(self) -> tuple["_Batch", "_Batch"]:
        """Return two batches to be applied one after the other; progress goes with the second."""
        half = len(self.tasks) // 2
        return self._replace(tasks=self.tasks[:half], progress=()), self._replace(tasks=self.tasks[half:])


async def _apply(pool: Pool, batch: _Batch) -> BatchResult:
    try:
        return await _with_retries(pool, batch)
    except Exception as error:
        if not (is_data(error) or isinstance(error, _TooManyRestarts)):
            raise
        if len(batch.tasks) <= 1:
            culprit = _dead_letter_of_culprit(batch, error)
            if culprit is None:
                raise
            return await _with_retries(pool, batch._replace(tasks=[culprit]))
        if is_data(error):
            logger.warning(
                "The database refused a value in a batch of %d; applying it in halves to find the event",
                len(batch.tasks),
            )
    first, second = batch.halves()
    applied = await _apply(pool, first)
    return applied.followed_by(await _apply(pool, second))


def _dead_letter_of_culprit(batch: _Batch, error: Exception) -> Task | None:
    """Return the dead letter of the one event of a batch that the database refuses; None where there is no record."""
    if not batch.tasks or not isinstance(task := batch.tasks[0], EventTask):
        return None
    cause = task.command.cause
    return DeadLetterTask(
        build_dead_letter(
            task.record,
            DeadLetterReason.RETRIES_EXHAUSTED,
            f"the database refused it: {error}",
            batch.now,
            event_id=cause.event_id,
            event_type=task.event_type,
            source=cause.source,
            error=error,
        )
    )


async def _with_retries(pool: Pool, batch: _Batch) -> BatchResult:
    for attempt in range(MAX_CONTENTION_RETRIES + 1):
        try:
            async with pool.acquire() as connection:
                return await _transact(connection, batch)
        except Exception as error:
            if not is_contention(error) or attempt == MAX_CONTENTION_RETRIES:
                raise
            logger.debug("The batch lost against another transaction (%s); retrying", type(error).__name__)
            await asyncio.sleep(random.uniform(0, min(0.005 * 2**attempt, 0.5)))  # noqa: S311 - jitter
    raise AssertionError("unreachable")


async def _transact(connection: Connection, batch: _Batch) -> BatchResult:
    """Run the transaction; start over when rows that were not loaded could change a decision."""
    due = DueHolds()
    for _ in range(MAX_RESTARTS):
        transaction = connection.transaction()
        await transaction.start()
        try:
            result = await _attempt(connection, batch, due)
            if result is not None:
                started = time.perf_counter()
                await transaction.commit()
                seconds = result.seconds._replace(commit=time.perf_counter() - started)
                return dataclasses.replace(result, seconds=seconds)
        except BaseException:
            # A COMMIT that failed leaves nothing to roll back, and asyncpg raises for the attempt. The first error
            # decides what happens next; the pool resets the connection.
            with contextlib.suppress(Exception):
                await transaction.rollback()
            raise
        # Locks are taken in order, so locking the rows that were missed means starting over.
        await transaction.rollback()
    raise _TooManyRestarts


async def _attempt(connection: Connection, batch: _Batch, due: DueHolds) -> BatchResult | None:
    """Load, decide and save; None, and nothing saved, when `due` grew or a cart was missed."""
    started = time.perf_counter()
    expiries = due.expiries()
    working_set = await lock_and_load(
        connection, batch.tasks, expiries, skip_locked=batch.skip_locked, anchor=batch.anchor
    )
    loaded = time.perf_counter()
    state = working_set.state
    changes = judge(batch.tasks, state, working_set.known, expiries, batch.policy, batch.now)
    decided = time.perf_counter()
    if await due.find_more(connection, changes) or await missed_a_cart(connection, working_set, changes, batch.tasks):
        return None
    saving = time.perf_counter()
    await save_changes(connection, working_set, changes, batch.progress)
    saved = time.perf_counter()
    return BatchResult(
        changes.verdicts,
        {key: state.products[key] for key in changes.products},
        {key: state.orders[key] for key in changes.orders},
        {key: state.carts[key] for key in changes.carts},
        changes.expired,
        len(changes.outbox),
        changes.dead_letters,
        StageSeconds(loaded - started, decided - loaded, saved - saving),
        anchor_of(changes.inbox, changes.dead_letters),
    )


class _TooManyRestarts(Exception):  # noqa: N818 - handled by `_apply`; no caller sees it
    """Each attempt found more due holds."""
