"""Rebalances: what is finished before partitions are revoked, and what happens to new ones."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka import TopicPartition

from workers.consuming import rebalances
from workers.consuming.rebalances import RebalanceListener

ORDERS = TopicPartition("order.created", 0)


class Parts:
    """Stands in for the client and the parts of the consumer, and records their calls in order."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.batch_finished = asyncio.Event()
        self.batch_finished.set()
        self.database_back = asyncio.Event()
        self.database_back.set()

    async def finished(self) -> None:
        """Wait for the batch in flight."""
        await self.batch_finished.wait()
        self.calls.append("batch finished")

    async def flush(self) -> None:
        """Commit the offsets."""
        self.calls.append("offsets committed")

    def forget(self, revoked: Iterable[TopicPartition]) -> None:
        """Forget partitions."""
        self.calls.append(("forgotten", set(revoked)))

    async def register(self, _client: object) -> None:
        """Register partitions."""
        self.calls.append("registered")

    def keep_suspended(self) -> None:
        """Suspend the new assignment where needed."""
        self.calls.append("suspended if the last assignment was")

    def hold(self) -> None:
        """Read nothing until the partitions are placed."""
        self.calls.append("held")

    async def place(self, _client: object, assigned: set[TopicPartition]) -> None:
        """Look up where to read from, once the database answers."""
        await self.database_back.wait()
        self.calls.append(("placed", assigned))


@pytest.fixture
def parts() -> Parts:
    """The parts of a consumer without a batch in flight."""
    return Parts()


@pytest.fixture
def listener(parts: Parts) -> RebalanceListener:
    """The listener of a consumer that has just been started."""
    anything: Any = parts
    return RebalanceListener(60.0, lambda: anything, anything, anything, anything, anything)


async def test_the_batch_and_its_offsets_are_finished_before_partitions_go(
    parts: Parts, listener: RebalanceListener
) -> None:
    """The next owner starts from offsets that include the batch."""
    parts.batch_finished.clear()
    revoking = asyncio.create_task(listener.on_partitions_revoked({ORDERS}))
    await asyncio.sleep(0.01)
    assert [] == parts.calls
    assert 1 == listener.generation  # at once: a batch that begins now must notice
    parts.batch_finished.set()
    async with asyncio.timeout(10):
        await revoking
    assert ["batch finished", "offsets committed", ("forgotten", {ORDERS})] == parts.calls


async def test_a_batch_that_takes_too_long_does_not_hold_up_the_group(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait ends below the rebalance timeout, after which Kafka would expel this worker."""
    anything: Any = parts
    monkeypatch.setattr(rebalances, "MARGIN_BELOW_REBALANCE_TIMEOUT_SECONDS", 1.0)
    listener = RebalanceListener(2.05, lambda: anything, anything, anything, anything, anything)
    parts.batch_finished.clear()
    async with asyncio.timeout(1.9):
        await listener.on_partitions_revoked({ORDERS})
    assert [("forgotten", {ORDERS})] == parts.calls
    assert "still in flight" in caplog.text


async def test_new_partitions_are_registered_and_stay_suspended(parts: Parts, listener: RebalanceListener) -> None:
    """All partitions are registered before ours are read, and the flood breaker's pause is kept."""
    await listener.on_partitions_assigned({ORDERS})
    before = ["suspended if the last assignment was", "held", "registered"]
    assert [*before, ("placed", {ORDERS})] == parts.calls


async def test_partitions_are_not_ours_before_they_are_placed(
    parts: Parts, listener: RebalanceListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database is away the group is not kept waiting, but nothing is assigned; a revocation ends the wait."""
    monkeypatch.setattr(rebalances, "PLACING_SECONDS", 0.01)
    parts.database_back.clear()
    await listener.on_partitions_assigned({ORDERS})
    assert (False, set()) == _state(listener)
    await listener.on_partitions_revoked({ORDERS})
    parts.database_back.set()
    await listener.on_partitions_assigned({ORDERS})
    assert (False, {ORDERS}) == _state(listener)
    assert 1 == parts.calls.count(("placed", {ORDERS}))


async def test_a_worker_joins_until_the_group_answers(listener: RebalanceListener) -> None:
    """No partitions are an answer as well; a revocation begins the wait again."""
    assert (True, set()) == _state(listener)
    await listener.on_partitions_assigned(set())
    assert (False, set()) == _state(listener)
    await listener.on_partitions_assigned({ORDERS})
    assert (False, {ORDERS}) == _state(listener)
    await listener.on_partitions_revoked({ORDERS})
    assert (True, set()) == _state(listener)


def _state(listener: RebalanceListener) -> tuple[bool, set[TopicPartition]]:
    return listener.joining_since is not None, set(listener.assigned)
