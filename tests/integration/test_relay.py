"""The relay on a broker: order, repeats with the same ids, shards, dead letters byte for byte, absent brokers."""

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid5

import pytest
from aiokafka import ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import NotEnoughReplicasError, UnknownTopicOrPartitionError

from dev.records import ConsumedRecord as Record
from dev.servers import kafka as kafka_brokers
from dev.servers.kafka import Broker
from engine.outbox_rows import NAMESPACE
from engine.tasks import DeadLetterTask
from schemas.topics import TOPICS_OUT
from storage import dead_letters, outbox, save
from storage.database import connect_worker
from storage.dead_letters import DeadLetter
from storage.outbox import SHARDS, shard_of
from storage.save import OutboxRow
from tests.integration.publishing import PublishingStage
from tests.integration.shop import (
    T0,
    adjusted,
    cancelled,
    cart,
    created,
    open_shop,
    paid,
    product,
    refunded,
    task,
)
from tests.integration.stream import eventually, read
from workers.consuming.records import InvalidRecord, read_records
from workers.publishing import dead_letters as publishing_dead_letters
from workers.publishing import low_water, producer, set_aside, shards
from workers.publishing import relay as relay_module
from workers.publishing.producer import Delivery, Producer
from workers.publishing.relay import Relay, RelayOptions
from workers.sweeper import Sweeper

# A producer that is stopped while it opens a connection leaves that to the garbage collector, in aiokafka.
drops_producers = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

TOPIC = "inventory.reservations"


class Stage(PublishingStage):
    """A stage for relays."""

    application = "inventory-relay"

    def relay(self, **changes: Any) -> Relay:
        """Return a relay that does nothing yet."""
        options = RelayOptions(self.prefix, "the-group", "1.2.3", poll_seconds=0.05, batch_size=1000)
        made = Relay(self.url, self.producer_options, options._replace(**changes), lambda: datetime.now(UTC))
        self.made.append(made)
        return made

    def start(self, **changes: Any) -> Relay:
        """Return a relay that runs."""
        made = self.relay(**changes)
        self.run(made)
        return made

    async def write(self, *rows: tuple[str, str], topic: str = TOPIC) -> None:
        """Write events of (key, body) to the outbox."""
        made = [
            OutboxRow(
                str(uuid5(NAMESPACE, f"{key} {body}")), topic, key, "type", json.dumps(body), None, T0, shard_of(key)
            )
            for key, body in rows
        ]
        async with self.shop.pool.acquire() as connection:
            await save.append_outbox(connection, made)

    async def read(self, topic: str, at_least: int) -> list[ConsumerRecord]:
        """Return a topic's records, at least so many."""
        return await read(self.bootstrap_servers, self.prefix + topic, at_least)

    async def unmarked(self) -> int:
        """Return how many events are not marked as published."""
        number: int = await self.shop.pool.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL")
        return number

    async def all_marked(self) -> None:
        """Wait until every event is marked as published."""

        async def nothing_left() -> bool:
            return await self.unmarked() == 0

        await eventually(nothing_left, why="unpublished events are left in the outbox")


@pytest.fixture
async def stage(kafka: Broker, topics: str, database_url: str) -> AsyncIterator[Stage]:
    """A stage without a relay."""
    async with open_shop(database_url) as shop:
        made = Stage(shop, database_url, kafka.bootstrap_servers, topics)
        yield made
        await made.stop()


async def test_events_of_a_key_keep_their_order(stage: Stage) -> None:
    """Whatever the batches, a reader of a key sees its events in the order in which they were written."""
    keys = [f"k{number}" for number in range(40)]
    for turn in range(5):
        await stage.write(*((key, f"{turn}-{step}") for step in range(5) for key in keys))
    stage.start(batch_size=77)
    by_key = _by_key(await stage.read(TOPIC, 1000))
    expected = [f"{turn}-{step}" for turn in range(5) for step in range(5)]
    assert dict.fromkeys(keys, expected) == by_key
    await stage.all_marked()


async def test_a_commit_wakes_the_relay(stage: Stage) -> None:
    """An event is published long before the next poll would find it."""
    stage.start(poll_seconds=60)
    await stage.write(("k", "first"))
    await stage.all_marked()
    await stage.write(("k", "second"))
    async with asyncio.timeout(10):
        await stage.all_marked()


async def test_a_crash_between_ack_and_mark_repeats_with_the_same_ids(stage: Stage) -> None:
    """Events acknowledged but not marked are published again, with the same ids, in order."""
    await stage.write(("k", "1"), ("k", "2"))
    first = stage.relay()
    assert 2 == await first.run_once()
    assert 2 == len(await stage.read(TOPIC, 2))
    await stage.end_sessions()
    await first.close()
    assert 2 == await stage.unmarked()
    assert 2 == await stage.relay().run_once()
    records = await stage.read(TOPIC, 4)
    ids = [dict(record.headers)["ce_id"] for record in records]
    assert ids[:2] == ids[2:]
    assert ["1", "2", "1", "2"] == [json.loads(record.value) for record in records]


async def test_a_row_is_not_marked_before_the_broker_has_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed send leaves the row, and all others of its key, unpublished; other keys go on."""
    await stage.write(("lost", "1"), ("kept", "1"), ("lost", "2"))
    made = stage.relay()
    original = Producer.send_events
    lost = TimeoutError("no acknowledgement")

    async def send_events(self: Producer, events: Any, **options: Any) -> list[Delivery]:
        deliveries = await original(self, events, **options)
        return [one._replace(error=lost) if one.events[0].key == "lost" else one for one in deliveries]

    with monkeypatch.context() as patch:
        patch.setattr(Producer, "send_events", send_events)
        patch.setattr(producer, "partition_of", lambda key, _count: int(key == "lost"))
        await made.run_once()
    assert [("lost",), ("lost",)] == await stage.shop.rows("SELECT aggregateid FROM outbox WHERE published_at IS NULL")


async def test_a_poll_marks_the_batch_before_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch costs one statement, which also fetches the next one; events written in between are not skipped."""
    # Periodic statements are not counted.
    monkeypatch.setattr(shards, "REBALANCE_SECONDS", 3600)
    monkeypatch.setattr(relay_module, "DEAD_LETTER_SECONDS", 3600)
    monkeypatch.setattr(low_water, "CHECK_SECONDS", 3600)
    connections: list[Any] = []

    async def connect(*arguments: Any) -> Any:
        connections.append(await connect_worker(*arguments))
        return connections[-1]

    monkeypatch.setattr(relay_module, "connect_worker", connect)
    await stage.write(("k", "1"), ("k", "2"))
    made = stage.relay(poll_seconds=3600)
    assert 2 == await made.run_once()
    statements: list[str] = []
    (connection,) = connections
    connection.add_query_logger(lambda entry: statements.append(entry.query))
    assert 2 == await stage.unmarked()
    await stage.write(("k", "3"))
    assert 1 == await made.run_once()
    assert 1 == await stage.unmarked()
    assert 0 == await made.run_once()
    assert 0 == await stage.unmarked()
    assert 2 == len(statements), statements
    assert {"k": ["1", "2", "3"]} == _by_key(await stage.read(TOPIC, 3))


async def test_a_shard_is_given_back_with_all_marks_written(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next holder of a shard finds no pending row that was already acknowledged."""
    monkeypatch.setattr(shards, "REBALANCE_SECONDS", 0)
    await stage.write(*((f"k{number}", "1") for number in range(64)))
    first, second = stage.relay(), stage.relay()
    assert 64 == await first.run_once()
    assert 0 == await second.run_once()
    assert first.held_shards == set(range(SHARDS + 1))
    original, again = outbox.give_back_shard, []

    async def give_back(connection: Any, shard: int) -> None:
        await original(connection, shard)
        again.append(await second.run_once())

    monkeypatch.setattr(outbox, "give_back_shard", give_back)
    await first.run_once()
    assert [0] * (SHARDS // 2) == again
    assert len(second.held_shards) == SHARDS // 2
    assert 64 == len(await stage.read(TOPIC, 64))


async def test_a_relay_that_is_closed_marks_what_it_published(stage: Stage) -> None:
    """A relay that ends between two polls leaves nothing to repeat."""
    await stage.write(("k", "1"))
    made = stage.relay()
    await made.run_once()
    assert 1 == len(await stage.read(TOPIC, 1))
    assert 1 == await stage.unmarked()
    await made.close()
    assert 0 == await stage.unmarked()


async def test_a_flush_ends_only_after_everything_is_marked(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that was already running when the flush began does not end it."""
    made = stage.start(poll_seconds=60)
    await made.flush()
    original, asked = outbox.pending, list[asyncio.Task[None]]()

    async def overtaken(*arguments: Any, **options: Any) -> Any:
        found = await original(*arguments, **options)
        if not asked:
            await stage.write(("k", "late"))
            asked.append(asyncio.create_task(made.flush()))
            await asyncio.sleep(0)
        return found

    monkeypatch.setattr(outbox, "pending", overtaken)
    made.wake()
    await eventually(_async(lambda: asked))
    await asked[0]
    assert 0 == await stage.unmarked()
    assert 1 == len(await stage.read(TOPIC, 1))


async def test_two_relays_share_the_shards_and_never_a_key(stage: Stage) -> None:
    """Two relays divide the shards, each key has one relay, and its order survives the handover."""
    keys = [f"k{number}" for number in range(64)]
    first = stage.start(batch_size=50)
    written = itertools.count()

    async def write(times: int) -> None:
        for _ in range(times):
            turn = next(written)
            await stage.write(*((key, f"{turn:04}") for key in keys))

    await write(5)
    second = stage.start(batch_size=50)

    async def shared() -> bool:
        await write(1)
        mine, yours = first.held_shards, second.held_shards
        return len(mine | yours) == SHARDS + 1 and min(len(mine), len(yours)) >= SHARDS // 2

    await eventually(shared, why="the shards were not shared")
    assert not first.held_shards & second.held_shards
    await write(5)
    await stage.all_marked()
    turns = next(written)
    by_key = _by_key(await stage.read(TOPIC, turns * len(keys)))
    assert {tuple(f"{turn:04}" for turn in range(turns))} == {tuple(bodies) for bodies in by_key.values()}


async def test_a_dead_relays_shards_are_taken_over(stage: Stage) -> None:
    """When a relay's session ends, another publishes for its keys."""
    first, second = stage.relay(), stage.start()
    await first.run_once()
    held = await stage.shop.pool.fetchval("SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory'")
    assert held >= 1
    await stage.end_sessions()
    await stage.write(*((f"k{number}", "1") for number in range(40)))
    await stage.all_marked()

    async def all_shards() -> bool:
        return second.held_shards == set(range(SHARDS + 1))

    await eventually(all_shards)


async def test_the_broker_goes_away_and_comes_back(database_url: str, topic_prefix: str, real_kafka: Broker) -> None:
    """While the broker is down events stay pending; when it is back they are published in order."""
    assert real_kafka.kind != "mock"
    broker = kafka_brokers.jvm()
    try:
        async with open_shop(database_url) as shop:
            stage = Stage(shop, database_url, broker.bootstrap_servers, topic_prefix)
            stage.start()
            await stage.write(*((f"k{number % 5}", f"{number:03}") for number in range(20)))
            await stage.all_marked()
            broker.kill()
            await stage.write(*((f"k{number % 5}", f"{number:03}") for number in range(20, 60)))
            await asyncio.to_thread(broker.start)
            await stage.write(*((f"k{number % 5}", f"{number:03}") for number in range(60, 80)))
            await stage.all_marked()
            by_key = _by_key(await stage.read(TOPIC, 80))
            for number, bodies in enumerate(by_key[f"k{key}"] for key in range(5)):
                assert [f"{n:03}" for n in range(number, 80, 5)] == list(dict.fromkeys(bodies))
            await stage.stop()
    finally:
        broker.close()


async def test_a_missing_topic_holds_no_other_topic_back(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
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


async def test_a_topic_that_appears_gets_its_events_in_order(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
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
    by_key = _by_key(await stage.read(late, len(keys) * 6))
    assert {key: [str(turn) for turn in range(6)] for key in keys} == by_key


@drops_producers
async def test_an_event_too_large_for_its_topic_stays_in_the_outbox(
    stage: Stage, real_kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is marked as unpublishable and passed by the low-water position; all others are published, in order."""
    assert real_kafka.kind != "mock"
    monkeypatch.setattr(low_water, "CHECK_SECONDS", 0.0)
    small = f"{stage.prefix}small."
    admin = AIOKafkaAdminClient(bootstrap_servers=stage.bootstrap_servers)
    await admin.start()
    await _create(admin, NewTopic(f"{small}{TOPIC}", 1, 1, topic_configs={"max.message.bytes": "20000"}))
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
    by_key = _by_key(await read(stage.bootstrap_servers, f"{small}{TOPIC}", 6))
    assert {"k": ["1", "2", "3", "4"], "j": ["1", "2"]} == {key: list(dict.fromkeys(by_key[key])) for key in by_key}

    async def passed() -> bool:
        await made.run_once()
        last = await stage.shop.pool.fetchval("SELECT max(position) FROM outbox")
        return bool(made._events._low_water.position > last)  # noqa: SLF001 - nothing else shows it

    await eventually(passed, why="an unpublishable event holds the low-water position back")
    await admin.delete_topics([f"{small}{TOPIC}"])
    await admin.close()


async def test_a_key_that_fails_waits_for_its_turn_and_others_do_not(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
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
    assert {"fine": ["1", "2"]} == _by_key(await stage.read(TOPIC, 2))
    monkeypatch.setattr(made._events._set_aside, "_retry_at", 0.0)  # noqa: SLF001 - an hour passes
    assert 2 == await made.run_once()
    assert ["1", "2", "3"] == _by_key(await stage.read(TOPIC, 5))["broken"]


async def test_events_that_all_fail_are_set_aside_in_the_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert {"fine": ["1"]} == _by_key(await stage.read(TOPIC, 1))


async def test_a_missing_dead_letter_topic_holds_nothing_back(
    stage: Stage, real_kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead letters of other topics and all events are published; those of the missing topic once it exists."""
    assert real_kafka.kind != "mock"
    monkeypatch.setattr(producer, "METADATA_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(publishing_dead_letters, "MAX_DEAD_LETTERS", 3)
    partial = f"{stage.prefix}partial."
    admin = AIOKafkaAdminClient(bootstrap_servers=stage.bootstrap_servers)
    await admin.start()
    await _create(admin, *(NewTopic(f"{partial}{name}", 1, 1) for name in (TOPIC, "cart.updated.dlq")))
    await _keep(stage, *(_poison(Record("order.created", 0, n, -1, b"k", b"{"))[0] for n in range(4)))
    await _keep(stage, *_poison(Record("cart.updated", 0, 1, -1, b"k", b"{")))
    await stage.write(("k", "1"))
    stage.start(prefix=partial)
    await read(stage.bootstrap_servers, f"{partial}cart.updated.dlq", 1)
    await stage.all_marked()
    await _create(admin, NewTopic(f"{partial}order.created.dlq", 1, 1))
    assert 4 == len(await read(stage.bootstrap_servers, f"{partial}order.created.dlq", 4))
    await admin.delete_topics([f"{partial}{name}" for name in (TOPIC, "cart.updated.dlq", "order.created.dlq")])
    await admin.close()


async def test_an_event_of_a_megabyte_is_published(stage: Stage) -> None:
    """Events larger than a batch are sent as well: an order of a thousand lines with long ids makes one."""
    await stage.write(("k", "before"), ("k", "x" * 700_000), ("k", "after"))
    assert 3 == await stage.relay().run_once()
    sizes = [len(json.loads(record.value)) for record in await stage.read(TOPIC, 3)]
    assert [6, 700_000, 5] == sizes


async def test_a_dead_letter_is_its_record_byte_for_byte(stage: Stage) -> None:
    """Key, value, timestamp, partition and every header are unchanged; the relay's headers follow them."""
    headers: list[tuple[str, bytes | None]] = [
        ("null", None),
        ("binary", b"\xff\x00\xfe"),
        ("twice", b"1"),
        ("twice", b"2"),
        ("", b"no name"),
        ("nul\x00", b"x"),
    ]
    (poison,) = _poison(Record("order.created", 2, 41, 1_700_000_000_123, b"\x00key\xff", b"\xffnot json", headers))
    await _keep(stage, poison)
    await stage.relay().run_once()
    (record,) = await stage.read("order.created.dlq", 1)
    assert (b"\x00key\xff", b"\xffnot json", 1_700_000_000_123, 2) == (
        record.key,
        record.value,
        record.timestamp,
        record.partition,
    )
    assert tuple(headers) == record.headers[: len(headers)]
    ours = dict(record.headers[len(headers) :])
    expected = {
        "__dlq.errors.topic": f"{stage.prefix}order.created".encode(),
        "__dlq.errors.partition": b"2",
        "__dlq.errors.offset": b"41",
        "__dlq.errors.group": b"the-group",
        "__dlq.errors.delivery.count": b"1",
        "x-original-topic": f"{stage.prefix}order.created".encode(),
        "x-dlq-version": b"1",
        "x-dlq-id": str(poison.id).encode(),
        "x-dlq-reason": b"decode_error",
        "x-dlq-original-timestamp": b"2023-11-14T22:13:20.123000+00:00",
        "x-dlq-service-version": b"1.2.3",
        "x-dlq-redrive-count": b"0",
    }
    assert expected == {name: ours[name] for name in expected}
    assert {"__dlq.errors.message", "x-dlq-exception-class", "x-dlq-stacktrace", "x-dlq-fingerprint"} <= ours.keys()
    assert {"x-dlq-failed-at"} <= ours.keys()
    assert [(True,)] == await stage.shop.rows("SELECT published_at IS NOT NULL FROM dead_letters")


async def test_dead_letters_without_key_or_value_are_published(stage: Stage) -> None:
    """A tombstone's dead letter is a tombstone; one without a key has none; without both it is still a record."""
    made = [(None, b"{"), (b"k", None), (None, None), (b"", b"")]
    kept = [_poison(Record("cart.updated", 0, n, -1, key, value))[0] for n, (key, value) in enumerate(made)]
    await _keep(stage, *kept)
    await stage.relay().run_once()
    records = await stage.read("cart.updated.dlq", len(made))
    assert made == [(record.key, record.value) for record in records]


async def test_the_partition_is_the_sources_modulo(stage: Stage) -> None:
    """A dead letter of partition 5 goes to partition 1 of four."""
    await _keep(stage, *_poison(Record("order.created", 5, 0, -1, b"k", b"{")))
    await stage.relay().run_once()
    assert [1] == [record.partition for record in await stage.read("order.created.dlq", 1)]


async def test_a_redriven_record_that_fails_again_says_how_often(stage: Stage) -> None:
    """The count grows with each redrive, and the headers of the earlier dead letter are replaced, not repeated."""
    await _keep(stage, *_poison(Record("order.created", 0, 1, -1, b"k", b"{", [("own", b"1")])))
    made = stage.relay()
    await made.run_once()
    for turn in (1, 2):
        record = (await stage.read("order.created.dlq", turn))[-1]
        # What the redrive of a Kafka UI does: the dead letter's record, unchanged, back to its topic.
        again = Record("order.created", 0, 1 + turn, -1, record.key, record.value, record.headers)
        await _keep(stage, *_poison(again))
        made.wake(dead_letters=True)
        await made.run_once()
        newest = (await stage.read("order.created.dlq", turn + 1))[-1]
        names = [name for name, _ in newest.headers]
        assert len(set(names)) == len(names)
        assert str(turn).encode() == dict(newest.headers)["x-dlq-redrive-count"]
        assert str(1 + turn).encode() == dict(newest.headers)["__dlq.errors.offset"]
        assert b"1" == dict(newest.headers)["own"]


@drops_producers
async def test_a_dead_letter_too_large_for_its_topic_stays_in_the_table(stage: Stage, real_kafka: Broker) -> None:
    """It is marked as unpublishable and not tried again; the others of its batch are published."""
    assert real_kafka.kind != "mock"
    small = f"{stage.prefix}small."
    admin = AIOKafkaAdminClient(bootstrap_servers=stage.bootstrap_servers)
    await admin.start()
    limit = {"max.message.bytes": "20000"}
    await admin.create_topics([NewTopic(f"{small}order.created.dlq", 1, 1, topic_configs=limit)])
    kept = [_poison(Record("order.created", 0, n, -1, b"k", b"{" * size))[0] for n, size in enumerate((10, 30_000, 20))]
    await _keep(stage, *kept)
    made = stage.relay(prefix=small)
    await made.run_once()
    assert 0 == await made.run_once()
    rows = await stage.shop.rows(
        'SELECT published_at IS NOT NULL, publish_error IS NOT NULL FROM dead_letters ORDER BY "offset"'
    )
    assert [(True, False), (False, True), (True, False)] == rows
    records = await read(stage.bootstrap_servers, f"{small}order.created.dlq", 2)
    assert [10, 20] == [len(record.value) for record in records]
    await admin.delete_topics([f"{small}order.created.dlq"])
    await admin.close()


async def test_dead_letters_are_taken_by_the_byte(stage: Stage) -> None:
    """A poll returns as many as fit into the byte limit, in order, and always the first, whatever its size."""
    sizes = (300, 10, 20, 1000)
    await _keep(stage, *(_poison(Record("order.created", 0, n, -1, b"k", b"{" * s))[0] for n, s in enumerate(sizes)))
    async with stage.shop.pool.acquire() as connection:
        for max_bytes, expected in ((100, [0]), (320, [0, 1]), (330, [0, 1, 2]), (10_000, [0, 1, 2, 3])):
            found = await dead_letters.pending_dead_letters(connection, 100, max_bytes)
            assert expected == [dead_letter.record.offset for _, dead_letter in found]


async def test_dead_letters_are_polled_for_when_there_may_be_some(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in every step: only after the worker reports one, and for a flush."""
    monkeypatch.setattr(relay_module, "DEAD_LETTER_SECONDS", 3600)
    original, polls = dead_letters.pending_dead_letters, itertools.count()

    async def counted(*arguments: Any, **options: Any) -> Any:
        next(polls)
        return await original(*arguments, **options)

    monkeypatch.setattr(dead_letters, "pending_dead_letters", counted)
    made = stage.start(poll_seconds=3600)
    await made.flush()
    before = next(polls)
    for number in range(5):
        await stage.write(("k", str(number)))
        await stage.all_marked()
    assert 1 == next(polls) - before
    await _keep(stage, *_poison(Record("order.created", 0, 1, -1, b"k", b"{")))
    made.wake(dead_letters=True)
    assert 1 == len(await stage.read("order.created.dlq", 1))
    await _keep(stage, *_poison(Record("order.created", 0, 2, -1, b"k", b"{")))
    await made.flush()
    assert [(True,)] * 2 == await stage.shop.rows("SELECT published_at IS NOT NULL FROM dead_letters")


async def test_another_workers_dead_letter_is_published_soon(stage: Stage) -> None:
    """Only the database's notification announces it, and the next poll is far off."""
    made = stage.start(poll_seconds=3600)
    await made.flush()
    await _keep(stage, *_poison(Record("order.created", 0, 1, -1, b"k", b"{")))
    assert 1 == len(await stage.read("order.created.dlq", 1))


async def test_everything_published_keeps_its_contract(stage: Stage) -> None:
    """Each kind of outgoing event has the topic, key, headers and body that its contract says, on the wire."""
    shop = stage.shop
    trace = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    await shop.apply(product("p", 12, 5), product("q", 3))
    await shop.run([task(created("o1", {"p": 8}, user_id="u"), [trace])])
    await shop.apply(cart("c1", {"q": 5}, minutes=-60), created("o2", {"p": 9}), created("old", {"p": 1}, minutes=-60))
    await shop.apply(paid("o1"), refunded("o1", {"p": 1}), paid("o2"), created("o3", {"p": 1}), cancelled("o3"))
    await shop.apply(adjusted("p", "SET", 1))
    await shop.apply(adjusted("p", "SET", 50, "more"))
    await shop.read_up_to(T0)
    await Sweeper(shop.pool, shop.policy, 1, lambda: T0, lambda _report: None).run_once()
    total = len(await shop.outgoing())
    assert total == await stage.relay().run_once()
    types: set[str] = set()
    for topic in TOPICS_OUT.values():
        wanted = await shop.pool.fetchval("SELECT count(*) FROM outbox WHERE aggregatetype = $1", topic.name)
        for record in await stage.read(topic.name, wanted):
            headers = {name: value.decode() for name, value in record.headers}
            model = topic.types[headers["ce_type"]].model_validate_json(record.value)
            body = json.loads(record.value)
            types.add(headers["ce_type"])
            assert record.key.decode() in {body.get(name) for name in topic.key_fields}
            assert (str(model.event_id), "1.0", "inventory-worker") == (
                headers["ce_id"],
                headers["ce_specversion"],
                headers["ce_source"],
            )
            assert body["occurred_at"] == headers["ce_time"]
            assert "application/json" == headers["content-type"]
            if body["caused_by"] == "created-o1":
                assert trace[1].decode() == headers["traceparent"]
    assert {name for topic in TOPICS_OUT.values() for name in topic.types} == types


async def test_after_a_timeout_the_relay_connects_anew(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose server vanished hangs for minutes; each retry on it would time out as well."""
    used = []
    pending = outbox.pending

    async def hang_once(connection: Any, *arguments: Any, **options: Any) -> Any:
        used.append(connection)
        if len(used) == 1:
            raise TimeoutError
        return await pending(connection, *arguments, **options)

    monkeypatch.setattr(outbox, "pending", hang_once)
    await stage.shop.apply(product("p", 1), created("o1", {"p": 1}))
    stage.start()
    await stage.read(TOPIC, 1)
    assert used[0] is not used[1]


async def test_a_machine_that_vanished_does_not_keep_its_shards_for_hours(database_url: str) -> None:
    """The server probes an idle relay's connection every few seconds (TCP keepalives)."""
    connection = await connect_worker(database_url, "a-relay")
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
    assert ["15", "5", "3"] == [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
    await connection.close()


async def test_a_poll_reads_the_index_in_order_and_stops_at_the_limit(database_url: str) -> None:
    """However many rows it marks: no sort, no bitmap, and one hash lookup per row."""
    connection = await connect_worker(database_url, "a-relay")
    for mode in ("force_generic_plan", "force_custom_plan"):
        await connection.execute(f"SET plan_cache_mode = {mode}")
        await connection.execute(f"PREPARE poll AS {outbox._MARK_AND_FETCH}")  # noqa: SLF001 - what this test is about
        values = "'{1,2,3}', 0, 100, '{1,2}', now()"
        rows = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE poll({values})")
        await connection.execute("DEALLOCATE poll")
        plan = "\n".join(row[0] for row in rows)
        assert plan.startswith("Limit\n"), plan
        assert "\n  ->  Index Scan using ix_outbox_pending on outbox\n" in plan, plan
        assert "Index Scan using pk_outbox on outbox outbox_1" in plan, plan
        assert "hashed SubPlan" in plan, plan
        assert [] == [word for word in ("Sort", "Bitmap", "Seq Scan") if word in plan], plan
    await connection.close()


# --- helpers --------------------------------------------------------------------------------


def _by_key(records: list[ConsumerRecord]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for record in records:
        found[record.key.decode()].append(json.loads(record.value))
    return dict(found)


def _async(condition: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def call() -> object:
        return condition()

    return call


def _poison(*records: Record) -> list[DeadLetter]:
    read_: list[Any] = read_records(records, "", T0)
    assert all(isinstance(one, InvalidRecord) for one in read_)
    return [one.dead_letter for one in read_]


async def _create(admin: AIOKafkaAdminClient, *topics: NewTopic) -> None:
    """Create topics and wait until each partition has a leader."""
    await admin.create_topics(list(topics))
    names = [topic.name for topic in topics]

    async def ready() -> bool:
        described = await admin.describe_topics(names)
        return all(
            topic["error_code"] == 0 and all(partition["leader"] >= 0 for partition in topic["partitions"])
            for topic in described
        )

    await eventually(ready, why="the topics have no leaders")


async def _keep(stage: Stage, *kept: DeadLetter) -> None:
    await stage.shop.run([DeadLetterTask(dead_letter) for dead_letter in kept])
