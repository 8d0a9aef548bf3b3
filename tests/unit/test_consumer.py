"""What the consumer says of itself, and when it begins a batch: without servers."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from domain.model import Policy
from engine.tasks import BatchResult, Task, TaskDisposition, Verdict
from inventory.health import Health
from storage.save import PartitionProgress
from workers.consuming import consumer as consumer_module
from workers.consuming.breaker import FloodBreaker
from workers.consuming.consumer import JOIN_LIMIT_SECONDS, Consumer, ConsumerOptions

OPTIONS = ConsumerOptions((), "", "group", 1000, 30_000, 3000, 60_000, 500)


@pytest.fixture
def consumer() -> Consumer:
    """A consumer that was never started."""
    return Consumer(None, Policy(), OPTIONS, FloodBreaker(10, 1.0, 10), lambda: datetime.now(UTC), lambda _: None)


async def test_a_worker_that_is_never_told_its_partitions_is_not_alive(consumer: Consumer) -> None:
    """It has no partition to poll and no lag to be behind with, so nothing else would notice."""
    health = Health(None, consumer)
    assert health.not_alive() is None
    assert consumer.joining_since is not None
    consumer.joining_since -= JOIN_LIMIT_SECONDS + 1
    assert "the group has given no answer about partitions since 301 s" == health.not_alive()


async def test_a_worker_without_partitions_is_alive_where_others_have_them_all(consumer: Consumer) -> None:
    """Being told that there are none is an answer; losing them begins the wait anew."""
    await consumer.on_partitions_assigned(set())
    assert (None, None) == (consumer.joining_since, Health(None, consumer).not_alive())
    await consumer.on_partitions_revoked(set())
    assert consumer.joining_since is not None


async def test_a_stop_just_before_a_batch_begins_is_heard(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch begun behind the stop's back would meet connections that are closing."""
    applied = []

    async def stopped_meanwhile(_: Sequence[Any]) -> list[PartitionProgress]:
        await consumer.drain()
        return []

    async def apply(*batch: object) -> None:
        applied.append(batch)

    monkeypatch.setattr(consumer, "_others", stopped_meanwhile)
    monkeypatch.setattr(consumer, "_apply", apply)
    await consumer.on_batch([])
    await consumer.drain()
    assert [] == applied


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[PartitionProgress]]:
    """What each batch wrote of the stream's clock, in a database that takes everything."""
    written: list[Sequence[PartitionProgress]] = []

    async def execute(
        _pool: object, tasks: Sequence[Task], *_: object, progress: Sequence[PartitionProgress]
    ) -> BatchResult:
        written.append(progress)
        return BatchResult([Verdict(TaskDisposition.DEAD_LETTERED)] * len(tasks))

    monkeypatch.setattr(consumer_module, "execute", execute)
    return written


@pytest.mark.usefixtures("written")
async def test_offsets_are_committed_now_and_then_and_the_last_at_once(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is applied in quick succession is committed together; whoever waits for the offsets need not wait long."""
    committed: list[int] = []

    async def commit(offsets: Mapping[TopicPartition, int]) -> None:
        committed.extend(offsets.values())

    monkeypatch.setattr(consumer, "_commit", commit)
    monkeypatch.setattr(consumer_module, "OFFSETS_SECONDS", 60.0)
    for offset in range(5):
        await consumer.on_batch([_record(offset)])
        await asyncio.sleep(0.01)
    assert [1] == committed
    await consumer.drain()
    assert [1, 5] == committed


async def test_the_clock_goes_along_with_a_batch_now_and_then(
    consumer: Consumer, written: list[Sequence[PartitionProgress]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches in quick succession leave it alone; what it was told first is told once more when its time has come."""
    monkeypatch.setattr(consumer_module, "PROGRESS_SECONDS", 60.0)
    await consumer.on_batch([_record(0)])
    await consumer.on_batch([_record(1)])
    monkeypatch.setattr(consumer, "_next_progress", 0.0)
    await consumer.on_batch([_record(2)])
    await consumer.drain()
    assert [[1], [], [3]] == [[row.next_offset for row in rows] for rows in written]


def _record(offset: int) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord("order.created", 0, offset, 0, 0, None, b"{", None, 0, 1, ())
