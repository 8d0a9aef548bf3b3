"""The worker's Kafka client: when it asks for records, and in which order it hands them over."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from workers.intake import Intake, in_time

ORDERS = TopicPartition("order.created", 0)
PAYMENTS = TopicPartition("payment.succeeded", 0)


@dataclass
class Broker:
    """What aiokafka would answer, and what it was told, in order."""

    answers: list[dict[TopicPartition, list[Any]]] = field(default_factory=list)
    ends: dict[TopicPartition, int] = field(default_factory=dict)
    assigned: set[TopicPartition] = field(default_factory=lambda: {ORDERS, PAYMENTS})
    heard: list[str] = field(default_factory=list)

    async def getmany(self, **_: Any) -> dict[TopicPartition, list[Any]]:
        """Answer as scripted."""
        self.heard.append("ask")
        await asyncio.sleep(0)
        return self.answers.pop(0)

    async def batch_done(self) -> None:
        """Note that the end of a batch was waited for."""
        self.heard.append("batch done")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    """A broker in place of aiokafka's own methods."""
    broker = Broker()
    monkeypatch.setattr(AIOKafkaConsumer, "getmany", broker.getmany)
    monkeypatch.setattr(AIOKafkaConsumer, "assignment", lambda _: frozenset(broker.assigned))
    monkeypatch.setattr(AIOKafkaConsumer, "highwater", lambda _, place: broker.ends.get(place))
    for name in ("pause", "resume"):
        monkeypatch.setattr(AIOKafkaConsumer, name, _noting(broker, name))
    return broker


@pytest.fixture
async def intake(broker: Broker) -> AsyncIterator[Intake]:
    """A client that was never started."""
    intake = Intake(broker.batch_done)
    yield intake
    await intake.stop()


async def test_a_steady_stream_gathers_while_a_batch_is_applied(broker: Broker, intake: Intake) -> None:
    """Nothing is asked for between a batch that emptied the topics and the end of its work."""
    broker.answers = [{ORDERS: _records(ORDERS, 4, 5)}, {ORDERS: _records(ORDERS, 6)}]
    broker.ends = {ORDERS: 6}
    await intake.getmany()
    assert ["ask", "pause 2"] == broker.heard
    broker.ends = {ORDERS: 7}
    await intake.getmany()
    assert ["ask", "pause 2", "batch done", "resume 2", "ask", "pause 2"] == broker.heard


async def test_a_backlog_is_asked_for_ahead(broker: Broker, intake: Intake) -> None:
    """Where one partition has more, the next batch is fetched while this one is applied."""
    broker.answers = [{ORDERS: _records(ORDERS, 4), PAYMENTS: _records(PAYMENTS, 0)}, {ORDERS: _records(ORDERS, 5)}]
    broker.ends = {ORDERS: 9, PAYMENTS: 1}
    await intake.getmany()
    await intake.getmany()
    assert ["ask", "ask"] == broker.heard


async def test_it_comes_back_with_records_only(broker: Broker, intake: Intake) -> None:
    """FastStream sleeps when there were none, and what comes meanwhile waits."""
    broker.answers = [{}, {}, {ORDERS: _records(ORDERS, 0)}]
    broker.ends = {ORDERS: 9}
    assert [ORDERS] == list(await intake.getmany())
    assert ["ask", "ask", "ask"] == broker.heard


async def test_partitions_that_went_to_others_are_left_alone(broker: Broker, intake: Intake) -> None:
    """Kafka's client raises for a partition that is not ours, and that would end the consumer."""
    broker.answers = [{ORDERS: _records(ORDERS, 0)}, {ORDERS: _records(ORDERS, 1)}]
    broker.ends = {ORDERS: 1}
    await intake.getmany()
    broker.assigned, broker.ends = {ORDERS}, {ORDERS: 9}
    await intake.getmany()
    assert ["ask", "pause 2", "batch done", "resume 1", "ask"] == broker.heard


async def test_once_shut_it_stays_shut(broker: Broker, intake: Intake) -> None:
    """The flood breaker's word outlasts the batch at hand."""
    broker.answers = [{ORDERS: _records(ORDERS, 0)}, {ORDERS: _records(ORDERS, 1)}]
    broker.ends = {ORDERS: 1}
    await intake.getmany()
    intake.shut()
    await intake.getmany()
    assert not [told for told in broker.heard if told.startswith("resume")]


def test_partitions_are_merged_by_time_and_each_keeps_its_order() -> None:
    """An order and its payment that lie in one batch are read in the order of the shop."""
    orders = _records(ORDERS, 0, 1, 2, at=(10, 30, 20))
    payments = _records(PAYMENTS, 0, 1, at=(15, 40))
    merged = in_time([*payments, *orders])
    assert [(10, 0), (15, 0), (30, 1), (20, 2), (40, 1)] == [(one.timestamp, one.offset) for one in merged]
    assert orders == in_time(orders)
    assert [] == in_time([])


def _noting(broker: Broker, name: str) -> Any:
    def note(_intake: Intake, *partitions: TopicPartition) -> None:
        broker.heard.append(f"{name} {len(partitions)}")

    return note


def _records(place: TopicPartition, *offsets: int, at: Iterable[int] = ()) -> list[ConsumerRecord[bytes, bytes]]:
    times = list(at) or [0] * len(offsets)
    return [
        ConsumerRecord(place.topic, place.partition, offset, time, 0, None, b"{}", None, 0, 2, ())
        for offset, time in zip(offsets, times, strict=True)
    ]
