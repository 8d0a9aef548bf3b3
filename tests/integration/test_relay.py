"""The relay on a broker: order, repeats with the same ids, shards, dead letters byte for byte, absent brokers."""

import asyncio
import gc
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid5

import pytest
from aiokafka import ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from dev.records import ConsumedRecord as Record
from dev.servers import kafka as kafka_brokers
from dev.servers.kafka import Broker
from engine.execute import Task
from engine.outbox_rows import NAMESPACE
from schemas.topics import TOPICS_OUT
from storage import dead_letters, outbox, save
from storage.database import connect_worker
from storage.dead_letters import DeadLetter
from storage.outbox import SHARDS, shard_of
from storage.save import OutboxRow
from tests.integration.shop import (
    T0,
    Shop,
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
from workers.publishing import low_water
from workers.publishing import relay as relay_module
from workers.publishing.relay import Relay
from workers.sweeper import Sweeper

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

TOPIC = "inventory.reservations"


@dataclass
class Stage:
    """A shop, a broker, and relays between them that are stopped at the end."""

    shop: Shop
    url: str
    bootstrap_servers: str
    prefix: str
    relays: list[Relay] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def relay(self, **changes: Any) -> Relay:
        """Return a relay that does nothing yet."""
        options: dict[str, Any] = {
            "prefix": self.prefix,
            "group_id": "the-group",
            "version": "1.2.3",
            "poll_seconds": 0.05,
            "batch_size": 1000,
            "clock": lambda: datetime.now(UTC),
        }
        producer = {"bootstrap_servers": self.bootstrap_servers, "acks": "all", "enable_idempotence": True}
        made = Relay(self.url, producer, **options | changes)
        self.relays.append(made)
        return made

    def start(self, **changes: Any) -> Relay:
        """Return a relay that runs."""
        made = self.relay(**changes)
        self.tasks.append(asyncio.create_task(made.run()))
        return made

    async def stop(self) -> None:
        """Stop all."""
        for one in self.tasks:
            one.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for made in self.relays:
            await made.close()

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
        """Return what a topic has."""
        return await read(self.bootstrap_servers, self.prefix + topic, at_least)

    async def waiting(self) -> int:
        """Return how many events are not marked."""
        number: int = await self.shop.pool.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL")
        return number

    async def end_sessions(self) -> None:
        """End the relays' sessions, as a server does that restarts."""
        await self.shop.pool.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'inventory-relay' AND datname = current_database()"
        )

    async def drained(self) -> None:
        """Wait until nothing waits."""

        async def nothing() -> bool:
            return await self.waiting() == 0

        await eventually(nothing, why="the outbox is not empty")


@pytest.fixture
async def stage(kafka: Broker, topics: str, database_url: str) -> AsyncIterator[Stage]:
    """A stage without a relay."""
    async with open_shop(database_url) as shop:
        made = Stage(shop, database_url, kafka.bootstrap_servers, topics)
        yield made
        await made.stop()
    # A client that is stopped while it opens a connection leaves it to the garbage collector, in aiokafka: now, and not
    # in a test that has nothing to do with it.
    gc.collect()


async def test_events_of_a_key_keep_their_order(stage: Stage) -> None:
    """Whatever the batches, a reader of a key sees its events in the order in which they were written."""
    keys = [f"k{number}" for number in range(40)]
    for turn in range(5):
        await stage.write(*((key, f"{turn}-{step}") for step in range(5) for key in keys))
    stage.start(batch_size=77)
    by_key = _by_key(await stage.read(TOPIC, 1000))
    expected = [f"{turn}-{step}" for turn in range(5) for step in range(5)]
    assert dict.fromkeys(keys, expected) == by_key
    await stage.drained()


async def test_a_commit_wakes_the_relay(stage: Stage) -> None:
    """An event is published long before the next poll would find it."""
    stage.start(poll_seconds=60)
    await stage.write(("k", "first"))
    await stage.drained()
    await stage.write(("k", "second"))
    async with asyncio.timeout(10):
        await stage.drained()


async def test_a_crash_between_ack_and_mark_repeats_with_the_same_ids(stage: Stage) -> None:
    """What the broker has but the table does not know is published again, under the same ids, in order."""
    await stage.write(("k", "1"), ("k", "2"))
    first = stage.relay()
    assert 2 == await first.run_once()
    assert 2 == len(await stage.read(TOPIC, 2))
    await stage.end_sessions()
    await first.close()
    assert 2 == await stage.waiting()
    assert 2 == await stage.relay().run_once()
    records = await stage.read(TOPIC, 4)
    ids = [dict(record.headers)["ce_id"] for record in records]
    assert ids[:2] == ids[2:]
    assert ["1", "2", "1", "2"] == [json.loads(record.value) for record in records]


async def test_a_row_is_not_marked_before_the_broker_has_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A send that fails leaves the row, and those of its key, where they were; other keys go on."""
    await stage.write(("lost", "1"), ("kept", "1"), ("lost", "2"))
    made = stage.relay()
    original = Relay._ship  # noqa: SLF001 - where acknowledgements come in

    async def ship(self: Relay, producer: Any, rows: Any) -> Any:
        shipments = await original(self, producer, rows)
        failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        failed.set_exception(TimeoutError("no acknowledgement"))
        return [(lot, failed if lot[0].key == "lost" else future) for lot, future in shipments]

    with monkeypatch.context() as patch:
        patch.setattr(Relay, "_ship", ship)
        patch.setattr(relay_module, "partition_of", lambda key, _count: int(key == "lost"))
        with pytest.raises(TimeoutError):
            await made.run_once()
    assert [("lost",), ("lost",)] == await stage.shop.rows("SELECT aggregateid FROM outbox WHERE published_at IS NULL")


async def test_a_look_marks_what_the_one_before_it_published(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch costs two statements, of which the second looks for the next; events in between are not passed over."""
    # What is asked every now and then is not counted.
    for seconds in ("REBALANCE_SECONDS", "DEAD_LETTER_SECONDS"):
        monkeypatch.setattr(relay_module, seconds, 3600)
    monkeypatch.setattr(low_water, "LOOK_SECONDS", 3600)
    await stage.write(("k", "1"), ("k", "2"))
    made = stage.relay(poll_seconds=3600)
    assert 2 == await made.run_once()
    statements: list[str] = []
    connection: Any = made._connection  # noqa: SLF001 - whose statements are counted
    connection.add_query_logger(lambda entry: statements.append(entry.query))
    assert 2 == await stage.waiting()
    await stage.write(("k", "3"))
    assert 1 == await made.run_once()
    assert 1 == await stage.waiting()
    assert 0 == await made.run_once()
    assert 0 == await stage.waiting()
    assert 2 == len(statements), statements
    assert {"k": ["1", "2", "3"]} == _by_key(await stage.read(TOPIC, 3))


async def test_a_shard_is_given_back_with_all_marks_written(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a shard next finds nothing there that the broker has already."""
    await stage.write(*((f"k{number}", "1") for number in range(64)))
    first, second = stage.relay(), stage.relay()
    assert 64 == await first.run_once()
    assert 0 == await second.run_once()
    assert first._shards == set(range(SHARDS + 1))  # noqa: SLF001 - what this test is about
    original, again = outbox.give_back_shard, []

    async def give_back(connection: Any, shard: int) -> None:
        await original(connection, shard)
        second._next_rebalance = 0.0  # noqa: SLF001 - as if it were time
        again.append(await second.run_once())

    monkeypatch.setattr(outbox, "give_back_shard", give_back)
    first._next_rebalance = 0.0  # noqa: SLF001 - as above
    await first.run_once()
    assert [0] * (SHARDS // 2) == again
    assert len(second._shards) == SHARDS // 2  # noqa: SLF001 - what this test is about
    assert 64 == len(await stage.read(TOPIC, 64))


async def test_a_relay_that_is_closed_marks_what_it_published(stage: Stage) -> None:
    """A relay that ends between two looks leaves nothing to repeat."""
    await stage.write(("k", "1"))
    made = stage.relay()
    await made.run_once()
    assert 1 == len(await stage.read(TOPIC, 1))
    assert 1 == await stage.waiting()
    await made.close()
    assert 0 == await stage.waiting()


async def test_a_relay_that_says_it_has_drained_has_marked_everything(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No look that was under way when the question came is taken for the answer."""
    made = stage.start(poll_seconds=60)
    await made.drained()
    original, asked = outbox.pending, list[asyncio.Task[None]]()

    async def overtaken(*arguments: Any, **options: Any) -> Any:
        found = await original(*arguments, **options)
        if not asked:
            await stage.write(("k", "late"))
            asked.append(asyncio.create_task(made.drained()))
            await asyncio.sleep(0)
        return found

    monkeypatch.setattr(outbox, "pending", overtaken)
    made.wake()
    await eventually(_true_of(lambda: asked))
    await asked[0]
    assert 0 == await stage.waiting()
    assert 1 == len(await stage.read(TOPIC, 1))


async def test_two_relays_share_the_shards_and_never_a_key(stage: Stage) -> None:
    """Two relays divide the shards between them, each key has one, and its order survives the handing over."""
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
        mine, yours = first._shards, second._shards  # noqa: SLF001 - what this test is about
        return len(mine | yours) == SHARDS + 1 and min(len(mine), len(yours)) >= SHARDS // 2

    await eventually(shared, why="the shards were not shared")
    assert not first._shards & second._shards  # noqa: SLF001 - as above
    await write(5)
    await stage.drained()
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
    await stage.drained()

    async def all_shards() -> bool:
        return second._shards == set(range(SHARDS + 1))  # noqa: SLF001 - what this test is about

    await eventually(all_shards)


async def test_the_broker_goes_away_and_comes_back(database_url: str, topic_prefix: str, real_kafka: Broker) -> None:
    """While the broker is down events wait in the table; when it is back they are published in order."""
    assert real_kafka.kind != "mock"
    broker = kafka_brokers.jvm()
    try:
        async with open_shop(database_url) as shop:
            stage = Stage(shop, database_url, broker.bootstrap_servers, topic_prefix)
            stage.start()
            await stage.write(*((f"k{number % 5}", f"{number:03}") for number in range(20)))
            await stage.drained()
            broker.kill()
            await stage.write(*((f"k{number % 5}", f"{number:03}") for number in range(20, 60)))
            await asyncio.to_thread(broker.start)
            await stage.write(*((f"k{number % 5}", f"{number:03}") for number in range(60, 80)))
            await stage.drained()
            by_key = _by_key(await stage.read(TOPIC, 80))
            for number, bodies in enumerate(by_key[f"k{key}"] for key in range(5)):
                assert [f"{n:03}" for n in range(number, 80, 5)] == list(dict.fromkeys(bodies))
            await stage.stop()
    finally:
        broker.close()


async def test_a_missing_topic_holds_nobody_else_back(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events for a topic that is not there wait; the others are published once and marked."""
    monkeypatch.setattr(relay_module, "METADATA_TIMEOUT_SECONDS", 0.5)
    await stage.write(("a", "1"), ("b", "1"))
    # A name that no broker makes by itself.
    await stage.write(("a", "2"), ("c", "1"), topic="no topic")
    made = stage.relay()
    for _ in range(2):
        with pytest.raises(Exception, match="there is no topic"):
            await made.run_once()
    assert [("no topic",)] * 2 == await stage.shop.rows("SELECT aggregatetype FROM outbox WHERE published_at IS NULL")
    assert 2 == len(await stage.read(TOPIC, 2))
    assert "is missing" in caplog.text


async def test_an_event_of_a_megabyte_is_published(stage: Stage) -> None:
    """Events larger than a batch are sent as well: an order of a thousand long lines makes one."""
    await stage.write(("k", "before"), ("k", "x" * 700_000), ("k", "after"))
    assert 3 == await stage.relay().run_once()
    sizes = [len(json.loads(record.value)) for record in await stage.read(TOPIC, 3)]
    assert [6, 700_000, 5] == sizes


async def test_a_dead_letter_is_its_record_byte_for_byte(stage: Stage) -> None:
    """Key, value, time, partition and every header survive; ours stand behind them."""
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
    letters = [_poison(Record("cart.updated", 0, n, -1, key, value))[0] for n, (key, value) in enumerate(made)]
    await _keep(stage, *letters)
    await stage.relay().run_once()
    records = await stage.read("cart.updated.dlq", len(made))
    assert made == [(record.key, record.value) for record in records]


async def test_the_partition_is_the_sources_modulo(stage: Stage) -> None:
    """A dead letter of partition 5 goes to partition 1 of four."""
    await _keep(stage, *_poison(Record("order.created", 5, 0, -1, b"k", b"{")))
    await stage.relay().run_once()
    assert [1] == [record.partition for record in await stage.read("order.created.dlq", 1)]


async def test_a_replayed_record_that_dies_again_says_how_often(stage: Stage) -> None:
    """The count goes up with each replay, and the headers of the earlier death are replaced, not repeated."""
    await _keep(stage, *_poison(Record("order.created", 0, 1, -1, b"k", b"{", [("own", b"1")])))
    made = stage.relay()
    await made.run_once()
    for turn in (1, 2):
        record = (await stage.read("order.created.dlq", turn))[-1]
        # As a UI's redrive does: the dead letter as it is, back to its topic.
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


async def test_a_dead_letter_too_large_for_its_topic_stays_in_the_table(stage: Stage, real_kafka: Broker) -> None:
    """It is marked and not tried again; those beside it are published."""
    assert real_kafka.kind != "mock"
    small = f"{stage.prefix}small."
    admin = AIOKafkaAdminClient(bootstrap_servers=stage.bootstrap_servers)
    await admin.start()
    limit = {"max.message.bytes": "20000"}
    await admin.create_topics([NewTopic(f"{small}order.created.dlq", 1, 1, topic_configs=limit)])
    letters = [
        _poison(Record("order.created", 0, n, -1, b"k", b"{" * size))[0] for n, size in enumerate((10, 30_000, 20))
    ]
    await _keep(stage, *letters)
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
    """A step takes as many as fit into its bytes, in their order, and the first whatever its size."""
    sizes = (300, 10, 20, 1000)
    await _keep(stage, *(_poison(Record("order.created", 0, n, -1, b"k", b"{" * s))[0] for n, s in enumerate(sizes)))
    async with stage.shop.pool.acquire() as connection:
        for max_bytes, expected in ((100, [0]), (320, [0, 1]), (330, [0, 1, 2]), (10_000, [0, 1, 2, 3])):
            letters = await dead_letters.pending_dead_letters(connection, 100, max_bytes)
            assert expected == [letter.record.offset for _, letter in letters]


async def test_dead_letters_are_looked_for_when_there_may_be_some(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in every pass: when the worker says that it wrote one, and when the relay is to say that it has drained."""
    monkeypatch.setattr(relay_module, "DEAD_LETTER_SECONDS", 3600)
    original, looks = dead_letters.pending_dead_letters, itertools.count()

    async def counted(*arguments: Any) -> Any:
        next(looks)
        return await original(*arguments)

    monkeypatch.setattr(dead_letters, "pending_dead_letters", counted)
    made = stage.start(poll_seconds=3600)
    await made.drained()
    before = next(looks)
    for number in range(5):
        await stage.write(("k", str(number)))
        await stage.drained()
    assert 1 == next(looks) - before
    await _keep(stage, *_poison(Record("order.created", 0, 1, -1, b"k", b"{")))
    made.wake(dead_letters=True)
    assert 1 == len(await stage.read("order.created.dlq", 1))
    await _keep(stage, *_poison(Record("order.created", 0, 2, -1, b"k", b"{")))
    await made.drained()
    assert [(True,)] * 2 == await stage.shop.rows("SELECT published_at IS NOT NULL FROM dead_letters")


async def test_another_workers_dead_letter_is_published_soon(stage: Stage) -> None:
    """Nobody here knows of it but the database, and the next poll is far off."""
    made = stage.start(poll_seconds=3600)
    await made.drained()
    await _keep(stage, *_poison(Record("order.created", 0, 1, -1, b"k", b"{")))
    assert 1 == len(await stage.read("order.created.dlq", 1))


async def test_everything_told_keeps_its_contract(stage: Stage) -> None:
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
    await Sweeper(shop.pool, shop.rules, 1, lambda: T0, lambda _report: None).run_once()
    total = len(await shop.told())
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


async def test_a_database_that_gives_no_answer_is_asked_on_a_new_connection(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection whose server moved away says nothing for minutes, and would be asked in vain again and again."""
    asked = []
    pending = outbox.pending

    async def hang_once(connection: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(connection)
        if len(asked) == 1:
            raise TimeoutError
        return await pending(connection, *arguments, **options)

    monkeypatch.setattr(outbox, "pending", hang_once)
    await stage.shop.apply(product("p", 1), created("o1", {"p": 1}))
    stage.start()
    await stage.read(TOPIC, 1)
    assert asked[0] is not asked[1]


async def test_a_machine_that_vanished_does_not_keep_its_shards_for_hours(database_url: str) -> None:
    """The server asks a silent relay every few seconds whether it is still there."""
    connection = await connect_worker(database_url, "a-relay")
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
    assert ["15", "5", "3"] == [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
    await connection.close()


async def test_a_look_reads_the_index_in_order_and_stops_at_the_limit(database_url: str) -> None:
    """Whatever is marked with it: no sort, no bitmap, and one comparison by hash for each row."""
    connection = await connect_worker(database_url, "a-relay")
    for mode in ("force_generic_plan", "force_custom_plan"):
        await connection.execute(f"SET plan_cache_mode = {mode}")
        await connection.execute(f"PREPARE look AS {outbox._MARK_AND_LOOK}")  # noqa: SLF001 - what this test is about
        values = "'{1,2,3}', 0, 100, '{1,2}', now()"
        rows = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE look({values})")
        await connection.execute("DEALLOCATE look")
        plan = "\n".join(row[0] for row in rows)
        assert plan.startswith("Limit\n"), plan
        assert "\n  ->  Index Scan using ix_outbox_pending on outbox\n" in plan, plan
        assert "Index Scan using pk_outbox on outbox outbox_1" in plan, plan
        assert "hashed SubPlan" in plan, plan
        assert [] == [word for word in ("Sort", "Bitmap", "Seq Scan") if word in plan], plan
    await connection.close()


# --- small tools --------------------------------------------------------------------------------


def _by_key(records: list[ConsumerRecord]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for record in records:
        found[record.key.decode()].append(json.loads(record.value))
    return dict(found)


def _true_of(condition: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def look() -> object:
        return condition()

    return look


def _poison(*records: Record) -> list[DeadLetter]:
    read_: list[Any] = read_records(records, "", T0)
    assert all(isinstance(one, InvalidRecord) for one in read_)
    return [one.letter for one in read_]


async def _keep(stage: Stage, *letters: DeadLetter) -> None:
    await stage.shop.run([Task(letter=letter) for letter in letters])
