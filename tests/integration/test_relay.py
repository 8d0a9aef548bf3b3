"""The relay on a broker: order, repeats with the same ids, shards, contracts on the wire, absent brokers."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dev.servers import kafka as kafka_brokers
from dev.servers.kafka import Broker
from schemas.topics import TOPICS_OUT
from storage import outbox
from storage.database import connect_worker
from storage.outbox import SHARDS
from tests.integration.relays import TOPIC, RelayStage, bodies_by_key
from tests.integration.shop import T0, adjusted, cancelled, cart, created, open_shop, paid, product, refunded, task
from tests.integration.stream import eventually
from workers.publishing import low_water, producer, shards
from workers.publishing import relay as relay_module
from workers.publishing.producer import Delivery, Producer
from workers.sweeper import Sweeper


async def test_events_of_a_key_keep_their_order(stage: RelayStage) -> None:
    """Whatever the batches, a reader of a key sees its events in the order in which they were written."""
    keys = [f"k{number}" for number in range(40)]
    for turn in range(5):
        await stage.write(*((key, f"{turn}-{step}") for step in range(5) for key in keys))
    stage.start(batch_size=77)
    by_key = bodies_by_key(await stage.read(TOPIC, 1000))
    expected = [f"{turn}-{step}" for turn in range(5) for step in range(5)]
    assert dict.fromkeys(keys, expected) == by_key
    await stage.all_marked()


async def test_a_commit_wakes_the_relay(stage: RelayStage) -> None:
    """An event is published long before the next poll would find it."""
    stage.start(poll_seconds=60)
    await stage.write(("k", "first"))
    await stage.all_marked()
    await stage.write(("k", "second"))
    async with asyncio.timeout(10):
        await stage.all_marked()


async def test_a_crash_between_ack_and_mark_repeats_with_the_same_ids(stage: RelayStage) -> None:
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


async def test_a_row_is_not_marked_before_the_broker_has_it(stage: RelayStage, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_a_poll_marks_the_batch_before_it(stage: RelayStage, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert {"k": ["1", "2", "3"]} == bodies_by_key(await stage.read(TOPIC, 3))


async def test_a_shard_is_given_back_with_all_marks_written(stage: RelayStage, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_a_relay_that_is_closed_marks_what_it_published(stage: RelayStage) -> None:
    """A relay that ends between two polls leaves nothing to repeat."""
    await stage.write(("k", "1"))
    made = stage.relay()
    await made.run_once()
    assert 1 == len(await stage.read(TOPIC, 1))
    assert 1 == await stage.unmarked()
    await made.close()
    assert 0 == await stage.unmarked()


async def test_a_flush_ends_only_after_everything_is_marked(stage: RelayStage, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_two_relays_share_the_shards_and_never_a_key(stage: RelayStage) -> None:
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
    by_key = bodies_by_key(await stage.read(TOPIC, turns * len(keys)))
    assert {tuple(f"{turn:04}" for turn in range(turns))} == {tuple(bodies) for bodies in by_key.values()}


async def test_a_dead_relays_shards_are_taken_over(stage: RelayStage) -> None:
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
            stage = RelayStage(shop, database_url, broker.bootstrap_servers, topic_prefix)
            stage.start()
            await stage.write(*((f"k{number % 5}", f"{number:03}") for number in range(20)))
            await stage.all_marked()
            broker.kill()
            await stage.write(*((f"k{number % 5}", f"{number:03}") for number in range(20, 60)))
            await asyncio.to_thread(broker.start)
            await stage.write(*((f"k{number % 5}", f"{number:03}") for number in range(60, 80)))
            await stage.all_marked()
            by_key = bodies_by_key(await stage.read(TOPIC, 80))
            for number, bodies in enumerate(by_key[f"k{key}"] for key in range(5)):
                assert [f"{n:03}" for n in range(number, 80, 5)] == list(dict.fromkeys(bodies))
            await stage.stop()
    finally:
        broker.close()


async def test_an_event_of_a_megabyte_is_published(stage: RelayStage) -> None:
    """Events larger than a batch are sent as well: an order of a thousand lines with long ids makes one."""
    await stage.write(("k", "before"), ("k", "x" * 700_000), ("k", "after"))
    assert 3 == await stage.relay().run_once()
    sizes = [len(json.loads(record.value)) for record in await stage.read(TOPIC, 3)]
    assert [6, 700_000, 5] == sizes


async def test_everything_published_keeps_its_contract(stage: RelayStage) -> None:
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


async def test_after_a_timeout_the_relay_connects_anew(stage: RelayStage, monkeypatch: pytest.MonkeyPatch) -> None:
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


def _async(condition: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def call() -> object:
        return condition()

    return call
