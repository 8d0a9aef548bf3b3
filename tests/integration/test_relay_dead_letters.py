"""The relay's dead letters: byte for byte, the sources' partitions, missing topics, too large, soon."""

import itertools
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from dev.records import ConsumedRecord as Record
from dev.servers.kafka import Broker
from storage import dead_letters
from tests.integration.relays import TOPIC, RelayStage, create_topics, drops_producers, keep, unreadable
from tests.integration.stream import read
from workers.publishing import dead_letters as publishing_dead_letters
from workers.publishing import producer
from workers.publishing import relay as relay_module


async def test_a_missing_dead_letter_topic_holds_nothing_back(
    stage: RelayStage, real_kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead letters of other topics and all events are published; those of the missing topic once it exists."""
    assert real_kafka.kind != "mock"
    monkeypatch.setattr(producer, "METADATA_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(publishing_dead_letters, "MAX_DEAD_LETTERS", 3)
    partial = f"{stage.prefix}partial."
    admin = AIOKafkaAdminClient(bootstrap_servers=stage.bootstrap_servers)
    await admin.start()
    await create_topics(admin, *(NewTopic(f"{partial}{name}", 1, 1) for name in (TOPIC, "cart.updated.dlq")))
    await keep(stage, *(unreadable(Record("order.created", 0, n, -1, b"k", b"{"))[0] for n in range(4)))
    await keep(stage, *unreadable(Record("cart.updated", 0, 1, -1, b"k", b"{")))
    await stage.write(("k", "1"))
    stage.start(prefix=partial)
    await read(stage.bootstrap_servers, f"{partial}cart.updated.dlq", 1)
    await stage.all_marked()
    await create_topics(admin, NewTopic(f"{partial}order.created.dlq", 1, 1))
    assert 4 == len(await read(stage.bootstrap_servers, f"{partial}order.created.dlq", 4))
    await admin.delete_topics([f"{partial}{name}" for name in (TOPIC, "cart.updated.dlq", "order.created.dlq")])
    await admin.close()


async def test_a_dead_letter_is_its_record_byte_for_byte(stage: RelayStage) -> None:
    """Key, value, timestamp, partition and every header are unchanged; the relay's headers follow them."""
    headers: list[tuple[str, bytes | None]] = [
        ("null", None),
        ("binary", b"\xff\x00\xfe"),
        ("twice", b"1"),
        ("twice", b"2"),
        ("", b"no name"),
        ("nul\x00", b"x"),
    ]
    (invalid,) = unreadable(Record("order.created", 2, 41, 1_700_000_000_123, b"\x00key\xff", b"\xffnot json", headers))
    await keep(stage, invalid)
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
        "x-dlq-id": str(invalid.id).encode(),
        "x-dlq-reason": b"decode_error",
        "x-dlq-original-timestamp": b"2023-11-14T22:13:20.123000+00:00",
        "x-dlq-service-version": b"1.2.3",
        "x-dlq-redrive-count": b"0",
    }
    assert expected == {name: ours[name] for name in expected}
    assert {"__dlq.errors.message", "x-dlq-exception-class", "x-dlq-stacktrace", "x-dlq-fingerprint"} <= ours.keys()
    assert {"x-dlq-failed-at"} <= ours.keys()
    assert [(True,)] == await stage.shop.rows("SELECT published_at IS NOT NULL FROM dead_letters")


async def test_dead_letters_without_key_or_value_are_published(stage: RelayStage) -> None:
    """A tombstone's dead letter is a tombstone; one without a key has none; without both it is still a record."""
    made = [(None, b"{"), (b"k", None), (None, None), (b"", b"")]
    kept = [unreadable(Record("cart.updated", 0, n, -1, key, value))[0] for n, (key, value) in enumerate(made)]
    await keep(stage, *kept)
    await stage.relay().run_once()
    records = await stage.read("cart.updated.dlq", len(made))
    assert made == [(record.key, record.value) for record in records]


async def test_the_partition_is_the_sources_modulo(stage: RelayStage) -> None:
    """A dead letter of partition 5 goes to partition 1 of four."""
    await keep(stage, *unreadable(Record("order.created", 5, 0, -1, b"k", b"{")))
    await stage.relay().run_once()
    assert [1] == [record.partition for record in await stage.read("order.created.dlq", 1)]


async def test_a_redriven_record_that_fails_again_says_how_often(stage: RelayStage) -> None:
    """The count grows with each redrive, and the headers of the earlier dead letter are replaced, not repeated."""
    await keep(stage, *unreadable(Record("order.created", 0, 1, -1, b"k", b"{", [("own", b"1")])))
    made = stage.relay()
    await made.run_once()
    for turn in (1, 2):
        record = (await stage.read("order.created.dlq", turn))[-1]
        # What the redrive of a Kafka UI does: the dead letter's record, unchanged, back to its topic.
        again = Record("order.created", 0, 1 + turn, -1, record.key, record.value, record.headers)
        await keep(stage, *unreadable(again))
        made.wake(dead_letters=True)
        await made.run_once()
        newest = (await stage.read("order.created.dlq", turn + 1))[-1]
        names = [name for name, _ in newest.headers]
        assert len(set(names)) == len(names)
        assert str(turn).encode() == dict(newest.headers)["x-dlq-redrive-count"]
        assert str(1 + turn).encode() == dict(newest.headers)["__dlq.errors.offset"]
        assert b"1" == dict(newest.headers)["own"]


@drops_producers
async def test_a_dead_letter_too_large_for_its_topic_stays_in_the_table(stage: RelayStage, real_kafka: Broker) -> None:
    """It is marked as unpublishable and not tried again; the others of its batch are published."""
    assert real_kafka.kind != "mock"
    small = f"{stage.prefix}small."
    admin = AIOKafkaAdminClient(bootstrap_servers=stage.bootstrap_servers)
    await admin.start()
    limit = {"max.message.bytes": "20000"}
    await admin.create_topics([NewTopic(f"{small}order.created.dlq", 1, 1, topic_configs=limit)])
    kept = [
        unreadable(Record("order.created", 0, n, -1, b"k", b"{" * size))[0] for n, size in enumerate((10, 30_000, 20))
    ]
    await keep(stage, *kept)
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


async def test_dead_letters_are_taken_by_the_byte(stage: RelayStage) -> None:
    """A poll returns as many as fit into the byte limit, in order, and always the first, whatever its size."""
    sizes = (300, 10, 20, 1000)
    await keep(stage, *(unreadable(Record("order.created", 0, n, -1, b"k", b"{" * s))[0] for n, s in enumerate(sizes)))
    async with stage.shop.pool.acquire() as connection:
        for max_bytes, expected in ((100, [0]), (320, [0, 1]), (330, [0, 1, 2]), (10_000, [0, 1, 2, 3])):
            found = await dead_letters.pending_dead_letters(connection, 100, max_bytes)
            assert expected == [dead_letter.record.offset for _, dead_letter in found]


async def test_dead_letters_are_polled_for_when_there_may_be_some(
    stage: RelayStage, monkeypatch: pytest.MonkeyPatch
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
    await keep(stage, *unreadable(Record("order.created", 0, 1, -1, b"k", b"{")))
    made.wake(dead_letters=True)
    assert 1 == len(await stage.read("order.created.dlq", 1))
    await keep(stage, *unreadable(Record("order.created", 0, 2, -1, b"k", b"{")))
    await made.flush()
    assert [(True,)] * 2 == await stage.shop.rows("SELECT published_at IS NOT NULL FROM dead_letters")


async def test_another_workers_dead_letter_is_published_soon(stage: RelayStage) -> None:
    """Only the database's notification announces it, and the next poll is far off."""
    made = stage.start(poll_seconds=3600)
    await made.flush()
    await keep(stage, *unreadable(Record("order.created", 0, 1, -1, b"k", b"{")))
    assert 1 == len(await stage.read("order.created.dlq", 1))
