"""Committing offsets: explicit, one commit in flight, and a failed commit stops nothing."""

import asyncio
from collections.abc import Mapping

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaConnectionError
from aiokafka.structs import ConsumerRecord
from prometheus_client import REGISTRY

from workers.consuming import offsets
from workers.consuming.offsets import OffsetCommitter, next_offsets

ORDERS = TopicPartition("order.created", 0)
PAYMENTS = TopicPartition("payment.succeeded", 2)


class Client:
    """Commits when it is let go, or fails."""

    def __init__(self) -> None:
        self.commits: list[Mapping[TopicPartition, int]] = []
        self.answer = asyncio.Event()
        self.error: Exception | None = None

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Record the offsets, then wait for the answer."""
        self.commits.append(offsets)
        await self.answer.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def client() -> Client:
    """A client whose commits are unanswered."""
    return Client()


@pytest.fixture
def committer(client: Client) -> OffsetCommitter:
    """A committer without offsets."""
    return OffsetCommitter(lambda: client)  # type: ignore[arg-type,return-value] # the part that is used


def test_the_next_offset_follows_the_last_record_of_each_partition() -> None:
    """Kafka's committed offset is the next one to read."""
    records = [_record(ORDERS, 3), _record(PAYMENTS, 8), _record(ORDERS, 4)]
    assert {ORDERS: 5, PAYMENTS: 9} == next_offsets(records)


async def test_one_commit_is_in_flight_at_a_time(client: Client, committer: OffsetCommitter) -> None:
    """What is applied meanwhile is committed together afterwards: an older offset never overtakes a newer one."""
    committer.applied({ORDERS: 1})
    await asyncio.sleep(0)
    committer.applied({ORDERS: 2, PAYMENTS: 1})
    committer.applied({ORDERS: 3})
    await asyncio.sleep(0)
    assert [{ORDERS: 1}] == client.commits
    client.answer.set()
    async with asyncio.timeout(10):
        await committer.flush()
    assert [{ORDERS: 1}, {ORDERS: 3, PAYMENTS: 1}] == client.commits


async def test_a_flush_waits_for_the_answer(client: Client, committer: OffsetCommitter) -> None:
    """Whoever gives up partitions knows that their offsets are committed."""
    committer.applied({ORDERS: 1})
    flush = asyncio.create_task(committer.flush())
    await asyncio.sleep(0.01)
    assert not flush.done()
    client.answer.set()
    async with asyncio.timeout(10):
        await flush


async def test_commits_keep_their_interval_after_a_flush(
    client: Client, committer: OffsetCommitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebalance flushes; the batches after it share commits again."""
    monkeypatch.setattr(offsets, "COMMIT_INTERVAL_SECONDS", 60.0)
    client.answer.set()
    committer.applied({ORDERS: 1})
    await committer.flush()
    for offset in (2, 3, 4):
        committer.applied({ORDERS: offset})
        await asyncio.sleep(0.01)
    assert [{ORDERS: 1}, {ORDERS: 2}] == client.commits
    await committer.flush()
    assert [{ORDERS: 1}, {ORDERS: 2}, {ORDERS: 4}] == client.commits


@pytest.mark.parametrize("error", [CommitFailedError(), IllegalStateError("x"), KafkaConnectionError(), TimeoutError()])
async def test_a_lost_commit_is_counted_and_the_next_one_is_made(
    client: Client, committer: OffsetCommitter, error: Exception
) -> None:
    """The inbox suppresses the redelivery, so nothing else has to be done."""
    before = _lost()
    client.error = error
    client.answer.set()
    committer.applied({ORDERS: 1})
    await committer.flush()
    assert before + 1 == _lost()
    client.error = None
    committer.applied({ORDERS: 2})
    await committer.flush()
    assert [{ORDERS: 1}, {ORDERS: 2}] == client.commits


def _lost() -> float:
    lost = REGISTRY.get_sample_value("inventory_commit_lost_total")
    assert lost is not None
    return lost


def _record(partition: TopicPartition, offset: int) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord(partition.topic, partition.partition, offset, 0, 0, None, b"", None, 0, 0, ())
