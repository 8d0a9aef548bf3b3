"""Events that a broker does not take: missing topics, too large, failing keys; and that no other waits for them."""

from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import NotEnoughReplicasError, UnknownTopicOrPartitionError

from dev.servers.kafka import Broker
from tests.integration.relays import TOPIC, RelayStage, bodies_by_key, create_topics, drops_producers
from tests.integration.stream import eventually, read
from workers.publishing import low_water, producer, set_aside
from workers.publishing.producer import Delivery, Producer


async def test_a_missing_topic_holds_no_other_topic_back(
    stage: RelayStage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of its events are first in line: one poll finds the topic missing, all later polls have others."""
    monkeypatch.setattr(producer, "METADATA_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(set_aside, "FIRST_RETRY_SECONDS", 3600)
    # A name that no broker creates automatically.
    await stage.write(*((f"a{number}", "1") for number in range(60)), topic="no topic")
    await stage.write(*((f"b{number}", "1") for number in range(60)))
    made = stage.relay(batch_size=20)
    assert [20, 20, 20, 20, 0] == [await made.run_once() for _ in range(5)]
    assert 60 == len(await stage.read(TOPIC, 60))
    assert [("no topic", 60)] == await stage.shop.rows(
        "SELECT aggregatetype, count(*) FROM outbox WHERE published_at IS NULL GROUP BY 1"
    )
    assert 1 == caplog.text.count("there is no topic")


async def test_a_topic_that_appears_gets_its_events_in_order(
    stage: RelayStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was set aside is published before what was written later, though the low-water position was past it."""
    monkeypatch.setattr(set_aside, "FIRST_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(set_aside, "LAST_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(low_water, "CHECK_SECONDS", 0.0)
    original, late = Producer._look_up, "inventory.low_stock"  # noqa: SLF001 - test brokers create missing topics

    async def look_up(self: Producer, client: Any, name: str) -> Any:
        if name.endswith(late):
            raise UnknownTopicOrPartitionError
        return await original(self, client, name)

    keys = ("a", "b", "c")
    await stage.write(*((key, str(turn)) for turn in range(5) for key in keys), topic=late)
    made = stage.relay()
    with monkeypatch.context() as patch:
        patch.setattr(Producer, "_look_up", look_up)
        for number in range(5):
            await stage.write(("k", str(number)))
            await made.run_once()
        await stage.write(*((key, "5") for key in keys), topic=late)
        await made.run_once()
    first = await stage.shop.pool.fetchval("SELECT min(position) FROM outbox WHERE aggregatetype = $1", late)
    assert made._events._low_water.position > first  # noqa: SLF001 - nothing else shows it
    assert len(keys) * 6 == await stage.unmarked()

    async def all_published() -> bool:
        await made.run_once()
        return await stage.unmarked() == 0

    await eventually(all_published)
    by_key = bodies_by_key(await stage.read(late, len(keys) * 6))
    assert {key: [str(turn) for turn in range(6)] for key in keys} == by_key


@drops_producers
async def test_an_event_too_large_for_its_topic_stays_in_the_outbox(
    stage: RelayStage, real_kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is marked as unpublishable and passed by the low-water position; all others are published, in order."""
    assert real_kafka.kind != "mock"
    monkeypatch.setattr(low_water, "CHECK_SECONDS", 0.0)
    small = f"{stage.prefix}small."
    admin = AIOKafkaAdminClient(bootstrap_servers=stage.bootstrap_servers)
    await admin.start()
    await create_topics(admin, NewTopic(f"{small}{TOPIC}", 1, 1, topic_configs={"max.message.bytes": "20000"}))
    large = "x" * 30_000
    await stage.write(("k", "1"), ("j", "1"), ("k", large), ("k", "2"), ("j", large), ("j", "2"), ("k", "3"))
    made = stage.relay(prefix=small)
    assert 7 == await made.run_once()
    await stage.write(("k", "4"))
    assert 1 == await made.run_once()
    rows = await stage.shop.rows("SELECT aggregateid, length(payload) FROM outbox WHERE publish_error IS NOT NULL")
    assert {("k", 30_002), ("j", 30_002)} == set(rows)
    assert 0 == await made.run_once()
    assert 2 == await stage.unmarked()
    by_key = bodies_by_key(await read(stage.bootstrap_servers, f"{small}{TOPIC}", 6))
    assert {"k": ["1", "2", "3", "4"], "j": ["1", "2"]} == {key: list(dict.fromkeys(by_key[key])) for key in by_key}

    async def passed() -> bool:
        await made.run_once()
        last = await stage.shop.pool.fetchval("SELECT max(position) FROM outbox")
        return bool(made._events._low_water.position > last)  # noqa: SLF001 - nothing else shows it

    await eventually(passed, why="an unpublishable event holds the low-water position back")
    await admin.delete_topics([f"{small}{TOPIC}"])
    await admin.close()


async def test_a_key_that_fails_waits_for_its_turn_and_others_do_not(
    stage: RelayStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of a failing key are left out of the polls, later ones included, until its first one is acknowledged."""
    monkeypatch.setattr(set_aside, "FIRST_RETRY_SECONDS", 3600)
    original = Producer.send_events

    async def send_events(self: Producer, events: Any, **options: Any) -> list[Delivery]:
        working = [event for event in events if event.key != "broken"]
        broken = [event for event in events if event.key == "broken"]
        failed = [Delivery(broken, NotEnoughReplicasError())] if broken else []
        return [*(await original(self, working, **options)), *failed]

    await stage.write(("broken", "1"), ("fine", "1"), ("broken", "2"))
    made = stage.relay()
    with monkeypatch.context() as patch:
        patch.setattr(Producer, "send_events", send_events)
        assert 3 == await made.run_once()
        await stage.write(("broken", "3"), ("fine", "2"))
        assert [1, 0] == [await made.run_once() for _ in range(2)]
    assert {"fine": ["1", "2"]} == bodies_by_key(await stage.read(TOPIC, 2))
    monkeypatch.setattr(made._events._set_aside, "_retry_at", 0.0)  # noqa: SLF001 - an hour passes
    assert 2 == await made.run_once()
    assert ["1", "2", "3"] == bodies_by_key(await stage.read(TOPIC, 5))["broken"]


async def test_events_that_all_fail_are_set_aside_in_the_end(
    stage: RelayStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that fails as a whole three times makes room: its failure is not the broker's."""

    async def send_events(self: Producer, events: Any, **_options: Any) -> list[Delivery]:
        assert self is not None
        return [Delivery(events, NotEnoughReplicasError())]

    await stage.write(("broken", "1"), ("broken", "2"))
    made = stage.relay(batch_size=2)
    with monkeypatch.context() as patch:
        patch.setattr(Producer, "send_events", send_events)
        for _ in range(2):
            with pytest.raises(NotEnoughReplicasError):
                await made.run_once()
        await made.run_once()
    await stage.write(("fine", "1"))
    assert 1 == await made.run_once()
    assert {"fine": ["1"]} == bodies_by_key(await stage.read(TOPIC, 1))
