"""What the consumer says of itself, and when it begins a batch: without servers."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from inventory.health import Health
from storage.save import Progress
from workers.breaker import FloodBreaker
from workers.consumer import JOIN_LIMIT_SECONDS, Consumer, ConsumerOptions
from workers.execute import Rules

OPTIONS = ConsumerOptions((), "", "group", 1000, 30_000, 3000, 60_000, 500)


@pytest.fixture
def consumer() -> Consumer:
    """A consumer that was never started."""
    return Consumer(None, Rules(), OPTIONS, FloodBreaker(10, 1.0, 10), lambda: datetime.now(UTC), lambda _: None)


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

    async def stopped_meanwhile(_: Sequence[Any]) -> list[Progress]:
        await consumer.drain()
        return []

    async def apply(*batch: object) -> None:
        applied.append(batch)

    monkeypatch.setattr(consumer, "_others", stopped_meanwhile)
    monkeypatch.setattr(consumer, "_apply", apply)
    await consumer.on_batch([])
    await consumer.drain()
    assert [] == applied
