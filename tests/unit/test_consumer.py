"""The consumer without servers: its status, when it begins a batch, and what a batch leaves behind."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from domain.model import Policy
from engine.tasks import BatchResult, Task, TaskDisposition, Verdict
from storage.save import PartitionProgress
from workers.consuming import applying, offsets, progress
from workers.consuming.applying import BatchApplier
from workers.consuming.breaker import FloodBreaker
from workers.consuming.consumer import Consumer
from workers.consuming.progress import ProgressRecorder
from workers.consuming.subscription import ConsumerOptions

OPTIONS = ConsumerOptions((), "", "group", 1000, 30_000, 3000, 60_000, 500)
HERE = TopicPartition("order.created", 0)


class Client:
    """The part of the Kafka client that a batch meets."""

    def __init__(self) -> None:
        self.committed: list[int] = []
        self.calls: list[object] = []

    def assignment(self) -> set[TopicPartition]:
        """Return no partition."""
        return set()

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Record the offsets."""
        self.committed.extend(offsets.values())

    async def known_positions(self) -> dict[TopicPartition, int]:
        """Record the call; return no position."""
        self.calls.append("positions")
        return {}

    def partitions_for_topic(self, _topic: str) -> None:
        """Return no partition."""

    def listed_at(self) -> None:
        """Know of no list."""

    def poll_age(self) -> float | None:
        """Return an age."""
        return 7.0

    def put_back(self, records: Sequence[Any]) -> None:
        """Record the offsets put back."""
        self.calls.append([record.offset for record in records])

    def suspend(self) -> None:
        """Record the call."""
        self.calls.append("suspended")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """The client of every consumer in the test."""
    client = Client()
    monkeypatch.setattr(Consumer, "client", client)
    return client


@pytest.fixture
def consumer() -> Consumer:
    """A consumer that was never started, with a flood breaker that trips at ten dead letters in a row."""
    return Consumer(None, Policy(), OPTIONS, FloodBreaker(10, 1.0, 10), lambda: datetime.now(UTC), lambda _: None)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[PartitionProgress]]:
    """The rows of progress written with each batch, in a database that accepts everything."""
    written: list[Sequence[PartitionProgress]] = []

    async def execute(
        _pool: object, tasks: Sequence[Task], *_: object, progress: Sequence[PartitionProgress], **_options: object
    ) -> BatchResult:
        written.append(progress)
        return BatchResult([Verdict(TaskDisposition.DEAD_LETTERED)] * len(tasks))

    monkeypatch.setattr(applying, "execute", execute)
    return written


def test_the_status_before_the_start(consumer: Consumer) -> None:
    """It waits for the group, has no lag, and nothing is wrong yet."""
    status = consumer.status()
    assert (frozenset(), None, None, None, 0) == (
        status.assigned,
        status.poll_age,
        status.paused_because,
        status.waits_because,
        status.lag_records,
    )
    assert status.joining_seconds is not None
    assert 0 <= status.joining_seconds < 60
    assert 0 <= status.progress_age < 60


@pytest.mark.parametrize(("rebalance_timeout_ms", "limit"), [(60_000, 300.0), (200_000, 400.0)])
def test_joining_may_take_as_long_as_a_rebalance(rebalance_timeout_ms: int, limit: float) -> None:
    """The limit is five minutes, or twice the rebalance timeout where that is longer."""
    options = OPTIONS._replace(rebalance_timeout_ms=rebalance_timeout_ms)
    consumer = Consumer(None, Policy(), options, FloodBreaker(10, 1.0, 10), lambda: datetime.now(UTC), lambda _: None)
    assert limit == consumer.status().joining_limit_seconds


def test_the_status_has_the_age_of_the_clients_fetch(consumer: Consumer, client: Client) -> None:
    """Only the client knows when Kafka last answered."""
    assert client.poll_age() == consumer.status().poll_age


async def test_a_stop_just_before_a_batch_begins_is_noticed(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch begun after the stop would run on connections that are being closed."""
    applied = []

    async def stop_meanwhile(*_: object) -> list[PartitionProgress]:
        await consumer.drain()
        return []

    monkeypatch.setattr(ProgressRecorder, "idle_rows", stop_meanwhile)
    monkeypatch.setattr(BatchApplier, "start", lambda _, batch: applied.append(batch))
    await consumer.on_batch([])
    await consumer.drain()
    assert [] == applied


async def test_a_batch_from_before_a_rebalance_is_dropped(
    consumer: Consumer, written: list[Sequence[PartitionProgress]], client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its partitions may belong to another worker by now; it is neither applied nor committed."""
    rebalances = consumer._rebalances  # noqa: SLF001 - FastStream gets it, and nobody else

    async def rebalance_meanwhile(*_: object) -> list[PartitionProgress]:
        await rebalances.on_partitions_revoked(set())
        return []

    with monkeypatch.context() as patch:
        patch.setattr(ProgressRecorder, "idle_rows", rebalance_meanwhile)
        await consumer.on_batch([_record(0)])
    await rebalances.on_partitions_revoked(set())  # waits for a batch in flight
    assert ([], []) == (written, client.committed)
    await consumer.on_batch([_record(0)])
    await consumer.drain()
    assert (1, [1]) == (len(written), client.committed)


async def test_a_flood_of_dead_letters_pauses_consumption(
    consumer: Consumer, written: list[Sequence[PartitionProgress]], client: Client
) -> None:
    """The batch is put back before the client is suspended, and nothing of it is applied or committed."""
    records = [_record(offset) for offset in range(10)]
    await consumer.on_batch(records)
    await consumer.drain()
    assert ["positions", list(range(10)), "suspended"] == client.calls
    assert ([], []) == (written, client.committed)
    assert "10 dead letters in a row on order.created (limit 10)" == consumer.status().paused_because


async def test_a_stopping_worker_does_not_tick(consumer: Consumer, client: Client) -> None:
    """A batch that it drops leaves positions ahead of what was processed; a tick would write them as watermarks."""
    await consumer.tick()
    assert ["positions"] == client.calls
    await consumer.drain()
    await consumer.tick()
    assert ["positions"] == client.calls


@pytest.mark.usefixtures("written")
async def test_offsets_are_committed_at_a_bounded_rate_and_at_once_on_a_stop(
    consumer: Consumer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches in quick succession share a commit; a stop does not wait for the interval."""
    monkeypatch.setattr(offsets, "COMMIT_INTERVAL_SECONDS", 60.0)
    for offset in range(5):
        await consumer.on_batch([_record(offset)])
        await asyncio.sleep(0.01)
    assert [1] == client.committed
    await consumer.drain()
    assert [1, 5] == client.committed


async def test_watermarks_are_written_with_batches_at_a_bounded_rate(
    consumer: Consumer, written: list[Sequence[PartitionProgress]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches within the interval write none; the first one after it does."""
    now = 1000.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    await consumer.on_batch([_record(0)])
    now += progress.WRITE_INTERVAL_SECONDS / 2
    await consumer.on_batch([_record(1)])
    now += progress.WRITE_INTERVAL_SECONDS
    await consumer.on_batch([_record(2)])
    await consumer.drain()
    assert [[1], [], [3]] == [[row.next_offset for row in rows] for rows in written]


def _record(offset: int) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord(HERE.topic, HERE.partition, offset, 0, 0, None, b"{", None, 0, 1, ())
