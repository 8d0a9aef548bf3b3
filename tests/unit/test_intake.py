"""The worker's Kafka client: when it asks for records, and in which order it hands them over."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from workers.intake import PORTION, Intake, in_time

ORDERS = TopicPartition("order.created", 0)
PAYMENTS = TopicPartition("payment.succeeded", 0)
BROKEN = ["broken"]


@dataclass
class Broker:
    """What aiokafka would answer, and what it was told, in order."""

    answers: list[dict[TopicPartition, list[Any]]] = field(default_factory=list)
    ends: dict[TopicPartition, int] = field(default_factory=dict)
    fetched: dict[TopicPartition, list[Any]] = field(default_factory=dict)
    assigned: set[TopicPartition] = field(default_factory=lambda: {ORDERS, PAYMENTS})
    heard: list[str] = field(default_factory=list)

    async def getmany(
        self, *places: TopicPartition, max_records: int | None = None, **_: Any
    ) -> dict[TopicPartition, list[Any]]:
        """Answer as scripted; for one partition with what was fetched of it."""
        if not places:
            self.heard.append("ask")
            await asyncio.sleep(0)
            return self.answers.pop(0)
        (place,) = places
        fetched = self.fetched.get(place, [])
        if fetched == BROKEN:
            del self.fetched[place]
            raise KafkaError
        self.fetched[place] = fetched[max_records:]
        return {place: fetched[:max_records]} if fetched else {}

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


async def test_a_backlog_is_read_by_the_time_of_its_records(broker: Broker, intake: Intake) -> None:
    """After an outage payments are not read long before their orders, however the partitions came in."""
    broker.answers = [{PAYMENTS: _records(PAYMENTS, 0)}]
    broker.ends = {ORDERS: 1000, PAYMENTS: 1000}
    await intake.getmany(max_records=100)
    broker.fetched = {
        PAYMENTS: _records(PAYMENTS, *range(1, 301), at=range(1, 301)),
        ORDERS: _records(ORDERS, *range(300), at=range(300)),
    }
    orders = payments = 0
    for _ in range(4):
        found = await intake.getmany(max_records=100)
        assert 100 == sum(map(len, found.values()))
        orders += len(found.get(ORDERS, ()))
        payments += len(found.get(PAYMENTS, ()))
        assert abs(orders - payments) <= 2 * PORTION
    assert [one.offset for one in broker.fetched[ORDERS]] == [*range(orders, 300)]


async def test_what_was_taken_before_trouble_is_handed_over_first(broker: Broker, intake: Intake) -> None:
    """It would not come again, and offsets committed behind it would lose it."""
    broker.answers = [{ORDERS: _records(ORDERS, 0, at=[1]), PAYMENTS: _records(PAYMENTS, 0, at=[2])}]
    broker.ends = {ORDERS: 9, PAYMENTS: 9}
    await intake.getmany(max_records=100)
    broker.fetched = {ORDERS: _records(ORDERS, 1, 2, at=(3, 4)), PAYMENTS: BROKEN}
    found = await intake.getmany(max_records=100)
    assert {ORDERS: [1, 2]} == {place: [one.offset for one in records] for place, records in found.items()}
    with pytest.raises(KafkaError):
        await intake.getmany(max_records=100)


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
