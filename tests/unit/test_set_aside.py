"""When the relay sets events and dead letters aside, and from where it looks for them again."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.errors import InvalidTimestampError, KafkaError, NotEnoughReplicasError, UnknownTopicOrPartitionError

from storage import outbox
from storage.dead_letters import DeadLetter, DeadLetterReason, StoredRecord
from storage.outbox import PendingEvent
from workers.publishing import low_water
from workers.publishing.dead_letters import DeadLetterPublisher
from workers.publishing.events import EventPublisher
from workers.publishing.producer import Delivery

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def _event(position: int, topic: str, key: str = "k") -> PendingEvent:
    return PendingEvent(position, str(uuid4()), topic, key, "t", "{}", None, NOW)


class _Outbox:
    """The statements of the outbox over a list; `published` are the positions that were marked."""

    def __init__(self, *events: PendingEvent) -> None:
        self.events = list(events)
        self.published: set[int] = set()

    def _waiting(self, position: int) -> list[PendingEvent]:
        return [one for one in self.events if one.position >= position and one.position not in self.published]

    async def pending(
        self, _connection: object, _shards: object, position: int, limit: int, **options: Any
    ) -> list[PendingEvent]:
        self.published |= set(options["published"])
        without = options["without_topics"]
        return [one for one in self._waiting(position) if one.topic not in without][:limit]

    async def first_pending(
        self, _connection: object, _shards: object, position: int, topic: str, _keys: object
    ) -> PendingEvent | None:
        return next((one for one in self._waiting(position) if one.topic == topic), None)

    async def mark_published(self, _connection: object, positions: Sequence[int], _now: object) -> None:
        self.published |= set(positions)


class _Producer:
    """Fails what is for a topic of `errors`; `sent` are the positions that were acknowledged."""

    def __init__(self, errors: dict[str, KafkaError]) -> None:
        self.errors = errors
        self.sent: list[int] = []

    async def send_events(self, events: Sequence[PendingEvent], **_options: Any) -> list[Delivery]:
        self.sent += [one.position for one in events if one.topic not in self.errors]
        return [Delivery([one], self.errors.get(one.topic)) for one in events]

    async def send_records(self, records: Sequence[Any]) -> list[KafkaError | None]:
        return [self.errors.get(one.topic) for one in records]


@pytest.fixture
def _complete(monkeypatch: pytest.MonkeyPatch) -> None:
    async def position(_self: object, _connection: object) -> int:
        return 1_000

    monkeypatch.setattr(low_water.LowWater, "complete_position", position)


def _publisher(monkeypatch: pytest.MonkeyPatch, table: _Outbox, producer: _Producer) -> EventPublisher:
    for name in ("pending", "first_pending", "mark_published"):
        monkeypatch.setattr(outbox, name, getattr(table, name))
    return EventPublisher(producer, 10, lambda: NOW)  # type: ignore[arg-type] # all that is used of it


async def _polls(publisher: EventPublisher, number: int) -> None:
    for _ in range(number):
        publisher._set_aside._retry_at = 0.0  # noqa: SLF001 - a minute passes
        await publisher.publish(None, [0])


@pytest.mark.usefixtures("_complete")
async def test_older_events_of_shards_that_were_taken_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another relay left an older event of a topic that is set aside: once the topic works it is published first."""
    table = _Outbox(_event(100, "fine"), _event(110, "late"))
    producer = _Producer({"late": UnknownTopicOrPartitionError()})
    publisher = _publisher(monkeypatch, table, producer)
    publisher._low_water.raise_to(100)  # noqa: SLF001 - as after many polls
    await _polls(publisher, 3)
    table.events.insert(0, _event(5, "late"))
    publisher.read_from_the_beginning()
    producer.errors.clear()
    await _polls(publisher, 4)
    assert [one for one in producer.sent if one in {5, 110}] == [5, 110]


@pytest.mark.usefixtures("_complete")
async def test_a_missing_topic_does_not_count_as_a_failure_of_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """After three polls that found topics missing, the broker's first failure is raised as such."""
    table = _Outbox()
    producer = _Producer({name: UnknownTopicOrPartitionError() for name in "abc"} | {"d": NotEnoughReplicasError()})
    publisher = _publisher(monkeypatch, table, producer)
    for position, topic in enumerate("abc", 1):
        table.events.append(_event(position, topic))
        await publisher.publish(None, [0])
    table.events.append(_event(4, "d"))
    with pytest.raises(NotEnoughReplicasError):
        await publisher.publish(None, [0])


async def test_a_dead_letter_that_always_fails_does_not_hold_events_back() -> None:
    """Kafka refuses its time for ever: twice that may be the broker, the third time it is set aside."""
    letter = DeadLetter(
        uuid4(),
        StoredRecord("order.created", 0, 7, None, b"{", (), NOW),
        DeadLetterReason.DECODE_ERROR,
        "the body is not JSON",
        None,
        None,
        "f",
        None,
        None,
        None,
        1,
        0,
        NOW,
    )
    publisher = DeadLetterPublisher(
        _Producer({"order.created.dlq": InvalidTimestampError()}),  # type: ignore[arg-type] # all that is used of it
        prefix="",
        group_id="g",
        version="1",
        poll_seconds=1.0,
        clock=lambda: NOW,
    )
    for _ in range(2):
        with pytest.raises(InvalidTimestampError):
            await publisher.publish(None, [(1, letter)])
    await publisher.publish(None, [(1, letter)])
    await publisher.publish(None, [(1, letter)])
    assert publisher._set_aside.topics == ["order.created"]  # noqa: SLF001 - nothing else shows it
