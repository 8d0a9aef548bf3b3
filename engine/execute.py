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
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg

from domain.model import Policy
from engine.anchor import Anchor, anchor_of
from engine.dead_letters import build_dead_letter
from engine.judge import judge
from engine.tasks import BatchResult, DeadLetterTask, EventTask, StageSeconds, Task
from engine.working_set import DueHoldSearch, lock_and_load, missed_a_cart, save_changes
from storage import imports, load
from storage.commit import commit
from storage.database import Connection, Pool
from storage.dead_letters import DeadLetterReason
from storage.errors import ContentionPersistsError, in_words, is_contention, is_data, is_suspect
from storage.imports import ImportProgress
from storage.save import PartitionProgress

logger = logging.getLogger(__name__)

# Retries of a batch that lost against other transactions, before the caller is to wait.
MAX_CONTENTION_RETRIES = 30
# Attempts in one transaction after another, each with due holds that the one before did not know. A batch that goes on
# finding more is applied in halves.
MAX_RESTARTS = 5
# A server that is slow for everybody does not answer the simplest look-ups within this time.
SIMPLE_LOOKUPS_SECONDS = 5.0


async def execute(  # noqa: PLR0913 - a transaction is these facts
    pool: Pool,
    tasks: Sequence[Task],
    policy: Policy,
    now: datetime,
    *,
    progress: Sequence[PartitionProgress] = (),
    import_progress: ImportProgress | None = None,
    skip_locked: bool = False,
    anchor: Anchor | None = None,
    isolate: bool = False,
    on_wait: Callable[[str], None] | None = None,
) -> BatchResult:
    """Apply `tasks` in one transaction and return, after the commit, what became of them.

    `progress` and `import_progress` are recorded with them. `skip_locked` leaves out orders and carts that other
    transactions have locked (for the sweeper). Where the database no longer has the `anchor`, nothing is applied and
    `engine.anchor.DatabaseWentBackError` is raised.

    Contention is retried here, within bounds. A database that cannot be reached, or that another transaction keeps
    locked, raises (`storage.errors.is_unavailable`): the caller waits and tries again. For an error in the data the
    batch is applied in halves, each in a transaction of its own, until the culprit is alone and is dead-lettered. A
    batch is halved as well when each expired hold uncovers another shortage; a single event needs two restarts at most.

    `isolate` is for a caller whose attempts have all failed with an error that the batch itself may have caused, such
    as a statement that timed out (`storage.errors.is_suspect`): such a batch is halved as well. An event that fails
    alone is dead-lettered only if the server does serve other work meanwhile; otherwise the error is raised.

    A commit that waits for a synchronous standby has no limit in time; `on_wait` is called with the reason meanwhile.
    """
    partitions = frozenset((row.topic, row.partition) for row in progress)
    batch = _Batch(tasks, policy, now, progress, partitions, import_progress, skip_locked, anchor, isolate, on_wait)
    return await _apply(pool, batch)


class _Batch(NamedTuple):
    """The arguments of `execute`, and the partitions of its progress: a first half has these without the progress."""

    tasks: Sequence[Task]
    policy: Policy
    now: datetime
    progress: Sequence[PartitionProgress]
    partitions: Collection[tuple[str, int]]
    import_progress: ImportProgress | None
    skip_locked: bool
    anchor: Anchor | None
    isolate: bool
    on_wait: Callable[[str], None] | None

    def halves(self) -> tuple["_Batch", "_Batch"]:
        """Return two batches to be applied one after the other; progress goes with the second."""
        half = len(self.tasks) // 2
        first = self._replace(tasks=self.tasks[:half], progress=(), import_progress=None)
        return first, self._replace(tasks=self.tasks[half:])


async def _apply(pool: Pool, batch: _Batch) -> BatchResult:
    try:
        return await _with_retries(pool, batch)
    except Exception as error:
        if not (is_data(error) or _is_lasting(error, batch) or isinstance(error, _TooManyRestarts)):
            raise
        if len(batch.tasks) <= 1:
            return await _without_culprit(pool, batch, error)
        if not isinstance(error, _TooManyRestarts):
            logger.warning(
                "A batch of %d cannot be applied (%s); applying it in halves to find the event",
                len(batch.tasks),
                in_words(error),
            )
    first, second = batch.halves()
    applied = await _apply(pool, first)
    return applied.followed_by(await _apply(pool, second))


def _is_lasting(error: Exception, batch: _Batch) -> bool:
    """Say whether retries have shown that an error that could have been the server's is the batch's own."""
    return isinstance(error, asyncpg.UniqueViolationError) or (batch.isolate and is_suspect(error))


async def _without_culprit(pool: Pool, batch: _Batch, error: Exception) -> BatchResult:
    """Dead-letter the one event of a batch; raises the error where there is no record, or the server is to blame."""
    culprit = _dead_letter_of_culprit(batch, error)
    if culprit is None or (is_suspect(error) and not await _serves_others(pool)):
        raise error
    return await _with_retries(pool, batch._replace(tasks=[culprit]))


async def _serves_others(pool: Pool) -> bool:
    """Say whether the server answers the look-ups of a batch that touches no row, by the same statements and indexes.

    If it does not, it is slow for every event, and dead-lettering one after the other would drain the topic.
    """
    nobody = [""]  # no id is empty
    try:
        async with asyncio.timeout(SIMPLE_LOOKUPS_SECONDS), pool.acquire() as connection, connection.transaction():
            await load.known_events(connection, [("", "")])
            await load.lock_orders(connection, nobody)
            await load.lock_carts(connection, nobody)
            await load.lock_products(connection, nobody)
    except Exception as error:  # noqa: BLE001 - whatever it is, the server does not serve others
        logger.warning("No event is to blame: the database does not serve other work either (%s)", in_words(error))
        return False
    return True


def _dead_letter_of_culprit(batch: _Batch, error: Exception) -> Task | None:
    """Return the dead letter of the one event of a batch that the database refuses; None where there is no record."""
    if not batch.tasks or not isinstance(task := batch.tasks[0], EventTask):
        return None
    cause = task.command.cause
    return DeadLetterTask(
        build_dead_letter(
            task.record,
            DeadLetterReason.RETRIES_EXHAUSTED,
            f"the database cannot apply it: {in_words(error)}",
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
                return await _transact(pool, connection, batch)
        except Exception as error:
            if not is_contention(error):
                raise
            if isinstance(error, asyncpg.UniqueViolationError) and attempt == MAX_CONTENTION_RETRIES:
                raise
            # A lock that was not granted within lock_timeout has been waited for long enough already.
            if isinstance(error, asyncpg.LockNotAvailableError) or attempt == MAX_CONTENTION_RETRIES:
                message = f"another transaction is in the way: {in_words(error)}"
                raise ContentionPersistsError(message) from error
            logger.debug("The batch lost against another transaction (%s); retrying", type(error).__name__)
            await asyncio.sleep(random.uniform(0, min(0.005 * 2**attempt, 0.5)))  # noqa: S311 - jitter
    raise AssertionError("unreachable")


async def _transact(pool: Pool, connection: Connection, batch: _Batch) -> BatchResult:
    """Run the transaction; start over when rows that were not loaded could change a decision."""
    search = DueHoldSearch(batch.partitions)
    for _ in range(MAX_RESTARTS):
        try:
            await connection.execute("BEGIN;")
            result = await _attempt(connection, batch, search)
            if result is not None:
                started = time.perf_counter()
                await commit(pool, connection, batch.on_wait)
                seconds = result.seconds._replace(commit=time.perf_counter() - started)
                return dataclasses.replace(result, seconds=seconds)
        except BaseException:
            # The first error decides what happens next, whatever a ROLLBACK on a connection that was cut says.
            with contextlib.suppress(Exception):
                await connection.execute("ROLLBACK;")
            raise
        # Locks are taken in order, so locking the rows that were missed means starting over.
        await connection.execute("ROLLBACK;")
    raise _TooManyRestarts


async def _attempt(connection: Connection, batch: _Batch, search: DueHoldSearch) -> BatchResult | None:
    """Load, decide and save; None, and nothing saved, when `search` found more or a cart was missed."""
    started = time.perf_counter()
    working_set = await lock_and_load(
        connection, batch.tasks, search.holds, skip_locked=batch.skip_locked, anchor=batch.anchor
    )
    loaded = time.perf_counter()
    state = working_set.state
    now = working_set.clock or batch.now
    due = search.in_state(state)
    changes = judge(batch.tasks, state, working_set.known, due, batch.policy, now, working_set.answers)
    decided = time.perf_counter()
    if await search.find_more(connection, changes, due) or await missed_a_cart(
        connection, working_set, changes, batch.tasks
    ):
        return None
    saving = time.perf_counter()
    await save_changes(connection, working_set, changes, batch.progress)
    if batch.import_progress is not None:
        await imports.save_progress(connection, batch.import_progress)
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
