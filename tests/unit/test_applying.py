"""Applying a batch: retries while the database is unavailable, and giving up only when asked to stop."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import asyncpg
import pytest

from domain.model import Policy
from engine.anchor import Anchor
from engine.tasks import BatchResult
from storage.errors import ContentionPersistsError
from storage.save import PartitionProgress
from workers.consuming import applying
from workers.consuming.anchoring import AnchorKeeper
from workers.consuming.applying import BatchApplier
from workers.consuming.batches import Batch

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PROGRESS = [PartitionProgress("order.created", 0, 1, NOON)]
BATCH = Batch([], [], PROGRESS, NOON)
REPORT = BatchResult([])


class Database:
    """Is unavailable until it is let go."""

    def __init__(self) -> None:
        self.available = False
        self.attempts = 0
        self.anchors: list[Anchor | None] = []
        self.error: Exception = asyncpg.ConnectionDoesNotExistError("cut")
        self.isolated: list[bool] = []
        self.commit_waits = False
        self.written: Sequence[PartitionProgress] | None = None
        self._attempted = asyncio.Event()

    async def execute(
        self,
        *_: object,
        progress: Sequence[PartitionProgress],
        anchor: Anchor | None,
        isolate: bool,
        on_wait: Callable[[str], None],
    ) -> BatchResult:
        """Stand in for `engine.execute.execute`."""
        self.written = progress
        self.anchors.append(anchor)
        self.isolated.append(isolate)
        if self.commit_waits:
            on_wait("a standby")
        self.attempts += 1
        self._attempted.set()
        if not self.available:
            raise self.error
        return REPORT

    async def attempted(self, number: int) -> None:
        """Wait for the attempt of this number."""
        async with asyncio.timeout(10):
            while self.attempts < number:
                self._attempted.clear()
                await self._attempted.wait()


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    """The database behind `execute`, tried every few milliseconds."""
    database = Database()
    monkeypatch.setattr(applying, "execute", database.execute)
    monkeypatch.setattr(applying, "FIRST_RETRY_SECONDS", 0.002)
    monkeypatch.setattr(applying, "LAST_RETRY_SECONDS", 0.002)
    return database


@pytest.fixture
def finished() -> list[BatchResult | None]:
    """Reports of finished batches."""
    return []


@pytest.fixture
def applier(finished: list[BatchResult | None]) -> BatchApplier:
    """An applier that was not started."""
    anchors = AnchorKeeper(3600.0, lambda: None)
    return BatchApplier(None, Policy(), lambda: NOON, anchors, lambda _, report: finished.append(report))


async def test_a_batch_is_retried_until_the_database_is_back(
    database: Database, applier: BatchApplier, finished: list[BatchResult | None], caplog: pytest.LogCaptureFixture
) -> None:
    """It waits as long as it takes, says so once, and is applied once."""
    caplog.set_level("INFO")
    applier.start(BATCH)
    await database.attempted(3)
    assert _waits(applier)
    database.available = True
    await applier.finished()
    assert ([REPORT], PROGRESS) == (finished, database.written)
    assert not _waits(applier)
    unavailable, back = [line.getMessage() for line in caplog.records]
    assert "The database is unavailable (cut); the batch is retried until it is back" == unavailable
    assert back.startswith("The database is back after ")


@pytest.mark.parametrize(
    ("error", "isolated"),
    [
        (asyncpg.QueryCanceledError("canceling statement due to statement timeout"), [False, False, False, True, True]),
        (ContentionPersistsError("a lock"), [False] * 5),
        (asyncpg.InvalidPasswordError("password authentication failed"), [False] * 5),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_batch_that_times_out_again_and_again_is_isolated(
    database: Database, applier: BatchApplier, error: Exception, isolated: list[bool]
) -> None:
    """Three attempts as a whole, then in halves; an error that says nothing about the batch never leads there."""
    database.error = error
    applier.start(BATCH)
    await database.attempted(5)
    database.available = True
    await applier.finished()
    assert isolated == database.isolated[:5]


async def test_each_reason_to_wait_is_logged_once(
    database: Database, applier: BatchApplier, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage that turns into a rotated password is two lines, however many attempts it takes."""
    applier.start(BATCH)
    await database.attempted(3)
    database.error = asyncpg.InvalidPasswordError("password authentication failed")
    await database.attempted(6)
    assert applier.waits_because == "password authentication failed"
    database.available = True
    await applier.finished()
    reasons = [line.getMessage().partition("; ")[0] for line in caplog.records]
    assert [
        "The database is unavailable (cut)",
        "The database is unavailable (password authentication failed)",
    ] == reasons


async def test_a_commit_that_waits_is_no_standstill(
    database: Database, applier: BatchApplier, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker knows the reason, so that it is alive and not ready."""
    database.commit_waits = True
    applier.start(BATCH)
    await database.attempted(2)
    assert _waits(applier)
    assert "The batch is not confirmed yet: a standby; nothing of it is published meanwhile" in caplog.messages
    database.available = True
    await applier.finished()
    assert not _waits(applier)


async def test_a_stop_abandons_a_batch_that_waits(
    database: Database, applier: BatchApplier, finished: list[BatchResult | None]
) -> None:
    """Its records will be redelivered; a stop does not wait for a database that may never come back."""
    applier.start(BATCH)
    await database.attempted(2)
    applier.stop()
    async with asyncio.timeout(10):
        await applier.finished()
    assert [None] == finished


async def test_a_stop_does_not_abandon_a_batch_that_succeeds(
    database: Database, applier: BatchApplier, finished: list[BatchResult | None]
) -> None:
    """One attempt is always made."""
    database.available = True
    applier.stop()
    applier.start(BATCH)
    await applier.finished()
    assert [REPORT] == finished


async def test_waiting_for_a_batch_can_be_bounded(
    database: Database, applier: BatchApplier, finished: list[BatchResult | None]
) -> None:
    """The wait ends before the batch does, and does not cancel it."""
    await applier.finished_within(0.001)
    applier.start(BATCH)
    await applier.finished_within(0.001)
    assert [] == finished
    database.available = True
    async with asyncio.timeout(10):
        await applier.finished_within(10)
    assert [REPORT] == finished


def _waits(applier: BatchApplier) -> bool:
    return applier.waits_because is not None
