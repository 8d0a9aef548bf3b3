"""Writing watermarks: when ticks write them for idle partitions, and when they must not."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from prometheus_client import REGISTRY

from storage import save
from storage.save import PartitionProgress
from workers.consuming import lag as lag_module
from workers.consuming import progress
from workers.consuming.anchoring import AnchorKeeper
from workers.consuming.clock import DatabaseClock
from workers.consuming.lag import LagMeter
from workers.consuming.progress import ProgressRecorder
from workers.consuming.watermarks import CAUGHT_UP_MARGIN, EPOCH, WatermarkTracker

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HERE = TopicPartition("order.created", 0)


class Client:
    """One partition; each look at its position comes with a fetch response a second later."""

    def __init__(self) -> None:
        self.position = 7
        self.end = 7
        self.answers = 0
        self.existing: set[int] = set()
        self.assigned = {HERE}

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return the partitions that exist; one topic is not known yet."""
        return self.existing if topic == HERE.topic else None

    def listed_at(self) -> float:
        """Return up to when the list of partitions is complete."""
        return (NOON + timedelta(hours=1)).timestamp()

    def assignment(self) -> set[TopicPartition]:
        """Return the one partition, unless it was revoked."""
        return self.assigned

    async def known_positions(self) -> dict[TopicPartition, int]:
        """Return where it is read."""
        self.answers += 1
        return {HERE: self.position}

    def highwater(self, _partition: TopicPartition) -> int:
        """Return its end; as aiokafka does, for assigned partitions only."""
        assert self.assigned
        return self.end

    def last_poll_timestamp(self, _partition: TopicPartition) -> int:
        """Return when the last response was read."""
        return round((NOON + timedelta(seconds=self.answers)).timestamp() * 1000)


@asynccontextmanager
async def _transaction() -> AsyncIterator[None]:
    """A transaction."""
    yield


class Pool:
    """Gives connections, unless the database is unavailable."""

    def __init__(self) -> None:
        self.available = True

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """Give a connection."""
        if not self.available:
            raise asyncpg.ConnectionDoesNotExistError("cut")
        yield SimpleNamespace(transaction=_transaction)


@pytest.fixture
def client() -> Client:
    """A client at the end of its partition."""
    return Client()


@pytest.fixture
def pool() -> Pool:
    """A database that is available."""
    return Pool()


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[PartitionProgress]:
    """The rows written outside of batches."""
    saved: list[PartitionProgress] = []

    async def save_progress(_connection: object, rows: Sequence[PartitionProgress]) -> None:
        saved.extend(rows)

    monkeypatch.setattr(save, "save_progress", save_progress)
    return saved


@pytest.fixture
def lag() -> LagMeter:
    """A meter that has measured nothing."""
    return LagMeter("")


@pytest.fixture
def recorder(client: Client, pool: Pool, lag: LagMeter) -> ProgressRecorder:
    """A recorder that has recorded nothing."""
    anything: Any = client
    anchors = AnchorKeeper(3600.0, lambda: None)
    return ProgressRecorder(
        pool, WatermarkTracker(""), lag, anchors, DatabaseClock(lambda: NOON), [HERE.topic, "gone"], lambda: anything
    )


async def test_an_idle_partition_is_written_once_its_position_is_trusted(
    recorder: ProgressRecorder, saved: list[PartitionProgress]
) -> None:
    """It takes two looks without a batch: to see that the position stands, and to know when the end was confirmed."""
    for _ in range(3):
        await recorder.tick()
    seconds = [row.watermark - NOON + CAUGHT_UP_MARGIN for row in saved]
    assert [timedelta(seconds=2)] == seconds


async def test_a_tick_does_nothing_while_a_batch_is_under_way(
    recorder: ProgressRecorder, saved: list[PartitionProgress]
) -> None:
    """The client's position is past records that are not applied yet."""
    recorder.batch_received()
    for _ in range(4):
        await recorder.tick()
    assert [] == saved
    recorder.batch_handled()
    for _ in range(4):
        await recorder.tick()
    assert [] != saved


async def test_a_stopping_worker_writes_no_ticks(recorder: ProgressRecorder, saved: list[PartitionProgress]) -> None:
    """A batch that it abandoned is handled but not applied, and the client's position is past it."""
    recorder.batch_received()
    recorder.stop()
    recorder.batch_handled()
    for _ in range(4):
        await recorder.tick()
    assert [] == saved


async def test_a_batch_takes_the_watermarks_of_idle_partitions_along(
    recorder: ProgressRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch's own partitions are left out: their positions are past records that it has yet to apply."""
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.0)
    record = ConsumerRecord(HERE.topic, HERE.partition, 6, 0, 0, None, b"", None, 0, 0, ())
    assert [] == await recorder.idle_rows([])  # the first response confirms nothing yet
    assert [(HERE.topic, 0, 7)] == [row[:3] for row in await recorder.idle_rows([])]
    assert [] == await recorder.idle_rows([record])


async def test_unread_partitions_are_registered_at_once(
    recorder: ProgressRecorder, saved: list[PartitionProgress], client: Client
) -> None:
    """They hold the low watermark back before the first record is read."""
    client.existing = {0}
    anything: Any = client
    await recorder.register(anything)
    assert [PartitionProgress("order.created", 0, 0, EPOCH)] == saved
    assert [] == recorder.batch_rows([], [], NOON)


async def test_unread_partitions_are_registered_with_a_batch_if_the_database_is_unavailable(
    recorder: ProgressRecorder, saved: list[PartitionProgress], pool: Pool, client: Client
) -> None:
    """Nothing is raised into the rebalance, and nothing is forgotten."""
    pool.available = False
    client.existing = {0}
    anything: Any = client
    await recorder.register(anything)
    assert [] == saved
    rows = recorder.batch_rows([], [], NOON)
    assert [PartitionProgress("order.created", 0, 0, EPOCH)] == rows
    recorder.batch_applied(rows, {})
    assert [] == recorder.batch_rows([], [], NOON)


async def test_a_partition_that_is_added_is_registered_with_the_next_write(
    recorder: ProgressRecorder, saved: list[PartitionProgress], client: Client
) -> None:
    """In the same write as the watermarks that its list allows; once."""
    client.existing = {0}
    anything: Any = client
    await recorder.register(anything)
    client.existing = {0, 1}
    await recorder.tick()
    await recorder.tick()
    assert [0, 1] == [row.partition for row in saved if row.watermark == EPOCH]
    client.existing = {0, 1, 2}
    assert [PartitionProgress(HERE.topic, 2, 0, EPOCH)] == recorder.batch_rows([], [], NOON)


async def test_lag_counts_from_what_was_applied(recorder: ProgressRecorder, client: Client, lag: LagMeter) -> None:
    """Records that were read and are still to be applied count as lag, as long as more of them are in Kafka."""
    recorder.batch_applied([], {HERE: 4})
    client.position, client.end = 7, 10
    await recorder.tick()
    assert (6, 6.0) == (lag.records, _gauge())
    client.position = 10
    await recorder.tick()
    assert (0, 0.0) == (lag.records, _gauge())


async def test_a_revoked_partition_has_no_gauge(recorder: ProgressRecorder) -> None:
    """Its new owner reports it."""
    await recorder.tick()
    assert _gauge() is not None
    recorder.forget({HERE})
    assert _gauge() is None


async def test_a_partition_may_be_revoked_while_watermarks_are_written(
    recorder: ProgressRecorder, client: Client, saved: list[PartitionProgress], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client answers questions about assigned partitions only, so they are all asked before."""

    async def save_progress(_connection: object, rows: Sequence[PartitionProgress]) -> None:
        saved.extend(rows)
        client.assigned = set()

    monkeypatch.setattr(save, "save_progress", save_progress)
    for _ in range(3):
        client.assigned = {HERE}
        await recorder.tick()
    assert saved


def test_progress_is_a_falling_lag_or_none(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the lag stands still or grows, progress ages; a falling lag, or none, is progress."""
    now = 0.0
    monkeypatch.setattr(lag_module, "time", SimpleNamespace(monotonic=lambda: now))
    lag, ages = LagMeter(""), []
    anything: Any = client
    for end in (10, 10, 12, 11, 11, 7, 7):
        now += 1
        client.end = end
        lag.measure(anything, {HERE: 7}, {})
        ages.append(lag.progress_age())
    assert [1, 2, 3, 0, 1, 0, 0] == ages


def _gauge() -> float | None:
    labels = {"topic": HERE.topic, "partition": str(HERE.partition)}
    return REGISTRY.get_sample_value("inventory_consumer_lag_records", labels)
