"""The consumer on a broker: invalid records, offsets, the flood breaker, bugs, rebalances."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import orjson
import pytest
from aiokafka import TopicPartition
from confluent_kafka import Producer as ConfluentProducer

from dev.servers.kafka import Broker
from engine.execute import execute
from inventory.worker import worker
from tests.integration.shop import body, created, problems, product
from tests.integration.stream import committed, dated, ends, eventually, now_plus
from tests.integration.worker_stage import WorkerStage, ask, is_true, look, open_stage, start_program
from workers.consuming import applying


@pytest.fixture
async def stage(kafka: Broker, topics: str, database_url: str) -> AsyncIterator[WorkerStage]:
    """A stage without a worker."""
    async with open_stage(kafka, topics, database_url) as opened:
        yield opened


async def test_each_invalid_record_harms_no_other(stage: WorkerStage) -> None:
    """Whatever a record contains, it becomes one dead letter with the right reason, and its neighbours are applied."""
    good = [product("p", 100)] + [created(f"o{number}", {"p": 1}) for number in range(12)]
    unknown: list[tuple[str, bytes | None]] = [
        ("ce_id", b"1"),
        ("ce_source", b"s"),
        ("ce_type", b"order.eaten"),
        ("ce_specversion", b"1.0"),
    ]
    bad: list[tuple[str, bytes | None, list[tuple[str, bytes | None]]]] = [
        ("decode_error", None, []),
        ("decode_error", b"", []),
        ("decode_error", b"{", []),
        ("decode_error", b"\x00\x00\x00\x00\x07abc", []),
        ("decode_error", b"\xff\xfe", [("n\x00ul", None)]),
        ("decode_error", body(created("x", {"p": 1})), [("ce_id", None), ("raw", b"\xff")]),
        ("schema_invalid", b"[1]", [("raw", b"\x80\x81"), ("null", None), ("", b"")]),
        ("schema_invalid", body(created("x", {"p": 0})), []),
        ("schema_invalid", b'{"pad":"' + b"x" * 2 * 1024 * 1024 + b'"}', []),
        ("unknown_type", body(created("x", {"p": 1})), unknown),
    ]
    await stage.producer.send(good[0])
    for one, (_, value, headers) in zip(good[1:], bad, strict=False):
        await stage.producer.raw("order.created", value, headers, partition=1)
        await stage.producer.raw("order.created", body(one), [("raw", b"\xff"), ("null", None)], partition=1)
    await stage.producer.send(*good[1 + len(bad) :])
    async with worker(stage.settings):
        await stage.wait_for("inbox", len(good))
        await stage.wait_for("dead_letters", len(bad))
    rows = await stage.shop.rows('SELECT reason, value, headers::text FROM dead_letters ORDER BY "offset"')
    assert [(reason, value) for reason, value, _ in bad] == [(row[0], row[1]) for row in rows]
    assert [["raw", "gIE="], ["null", None], ["", ""]] == orjson.loads(rows[6][2])
    assert len(good) == await stage.count("inbox WHERE outcome IN ('applied', 'refused')")
    assert [] == await problems(stage.shop.pool)
    assert await ends(stage.bootstrap_servers, stage.prefix) == await committed(stage.bootstrap_servers, stage.prefix)


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_every_compression_is_read(stage: WorkerStage, compression: str) -> None:
    """Producers choose the compression; an unsupported one would hold its partition back."""
    await stage.shop.apply(product("p", 10))
    settings = {"bootstrap.servers": stage.bootstrap_servers, "compression.type": compression, "linger.ms": 50}
    producer = ConfluentProducer(settings)
    for one in dated((created(f"o{number}", {"p": 1}) for number in range(5)), now_plus(0)):
        producer.produce(f"{stage.prefix}order.created", body(one) + b" " * 1000, key=b"k", partition=0)
    assert 0 == await asyncio.to_thread(producer.flush, 30)
    async with worker(stage.settings):
        await stage.wait_for("orders", 5)


async def test_a_header_name_that_is_not_utf8_blocks_nothing(stage: WorkerStage) -> None:
    """Kafka accepts a header whose name is not UTF-8; its record and those around it are read like any other."""
    await stage.shop.apply(product("p", 10))
    program = (
        "import asyncio, sys\n"
        "from aiokafka import AIOKafkaProducer\n"
        "class Name(str):\n"
        "    def encode(self, *_): return b'\\xff\\xfe'\n"
        "async def main():\n"
        "    producer = AIOKafkaProducer(bootstrap_servers=sys.argv[1], linger_ms=100, compression_type='gzip')\n"
        "    await producer.start()\n"
        "    sends = [await producer.send(sys.argv[2], value.encode(), partition=0,\n"
        "                                 headers=[(Name('x'), b'1')] * (n % 2))\n"
        "             for n, value in enumerate(sys.argv[3:])]\n"
        "    await asyncio.gather(*sends)\n"
        "    await producer.stop()\n"
        "asyncio.run(main())\n"
    )
    orders = dated((created(f"o{n}", {"p": 1}) for n in range(4)), now_plus(0))
    bodies = [*(body(one).decode() for one in orders), "}"]
    producer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, stage.bootstrap_servers, f"{stage.prefix}order.created", *bodies, *bodies),
        # Only aiokafka's pure Python record builder lets such a name through.
        env={"PATH": "/usr/bin:/bin", "AIOKAFKA_NO_EXTENSIONS": "1"},
    )
    async with asyncio.timeout(90):
        assert 0 == await producer.wait()
    async with worker(stage.settings):
        await stage.wait_for("inbox", 5)
        await stage.wait_for("dead_letters WHERE published_at IS NOT NULL", 2)
    assert (10, 4) == await stage.shop.stock("p")
    rows = await stage.shop.rows('SELECT headers::text FROM dead_letters ORDER BY "offset"')
    assert [("[]",), ('[["\ufffd\ufffd","MQ=="]]',)] == rows


async def test_offsets_follow_the_transaction(stage: WorkerStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is unavailable no offset is committed and nothing is lost; afterwards both are caught up."""
    away = asyncio.Event()
    tried = asyncio.Event()

    async def execute_unless_away(*args: Any, **options: Any) -> Any:
        if not away.is_set():
            tried.set()
            raise asyncpg.ConnectionDoesNotExistError("cut")
        return await execute(*args, **options)

    monkeypatch.setattr(applying, "execute", execute_unless_away)
    await stage.producer.send(product("p", 10), created("o", {"p": 1}))
    async with worker(stage.settings) as running:
        async with asyncio.timeout(90):
            await tried.wait()
        await eventually(lambda: is_true(lambda: bool(running.consumer and running.consumer.status().waits_because)))
        assert {} == await committed(stage.bootstrap_servers, stage.prefix)
        assert 200 == await ask(running, "livez")
        away.set()
        await stage.wait_for("inbox", 2)
    assert await ends(stage.bootstrap_servers, stage.prefix) == await committed(stage.bootstrap_servers, stage.prefix)


async def test_a_stop_while_the_database_is_away_loses_nothing(
    stage: WorkerStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker stopped while its batch waits for the database leaves that batch and all after it to its successor."""
    tried = asyncio.Event()
    calls = 0

    async def execute_later(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= 2:
            tried.set()
            raise asyncpg.ConnectionDoesNotExistError("cut")
        return await execute(*args, **options)

    monkeypatch.setattr(applying, "execute", execute_later)
    await stage.shop.apply(product("p", 10))
    orders = dated((created(f"o{number}", {"p": 1}) for number in range(8)), now_plus(0))
    for one in orders:
        await stage.producer.raw(one["topic"], body(one), partition=0)
    async with worker(stage.with_settings(batch_max_records=1)):
        async with asyncio.timeout(90):
            await tried.wait()
    monkeypatch.undo()
    async with worker(stage.settings):
        await stage.wait_for("inbox", 9)
    assert (10, 8) == await stage.shop.stock("p")


async def test_a_flood_of_bad_records_pauses_the_consumer(stage: WorkerStage) -> None:
    """At the breaker's limit consumption pauses, nothing of the batch is dead-lettered, and readiness says why."""
    for number in range(30):
        await stage.producer.raw("order.created", b"%d{" % number, partition=0)
    await stage.producer.raw("order.created", body(created("behind", {"p": 1})), partition=0)
    settings = stage.with_settings(dead_letter_breaker_consecutive=20)
    async with worker(settings) as running:
        assert running.consumer is not None
        await eventually(lambda: is_true(lambda: running.consumer and running.consumer.status().paused_because))
        status, text = await look(running, "readyz")
        assert (503, True) == (status, "dead letters in a row" in text)
        assert 200 == await ask(running, "livez")
        # Neither ticks nor a fetch in flight may move a partition that was put back.
        for _ in range(3):
            await running.consumer.tick()
        put_back = TopicPartition(f"{stage.prefix}order.created", 0)
        assert running.consumer.client is not None
        assert 0 == await running.consumer.client.position(put_back)
        assert 20 > await stage.count("dead_letters")
        assert 0 == await stage.count("inbox")
        held = "stream_progress WHERE topic = 'order.created' AND partition = 0 AND watermark > '2000-01-01'"
        assert 0 == await stage.count(held)
    async with worker(stage.with_settings(dead_letter_breaker_consecutive=1000)):
        await stage.wait_for("inbox", 1)
    assert 30 == await stage.count("dead_letters")


async def test_a_bug_ends_the_process_and_loses_nothing(stage: WorkerStage) -> None:
    """A bug ends the process with 70 before any offset is committed; the next process applies the batch."""
    program = (
        "from workers.consuming import applying\n"
        "async def bug(*args, **options): raise ZeroDivisionError('a bug')\n"
        "applying.execute = bug\n"
        "from inventory.cli import main\n"
        "import sys; sys.argv = ['inventory', 'run']\n"
        "main()\n"
    )
    await stage.producer.send(product("p", 10), created("o", {"p": 1}))
    process = await start_program(stage.settings, "-c", program)
    async with asyncio.timeout(90):
        output, _ = await process.communicate()
    assert 70 == process.returncode
    assert b"A bug stopped this worker" in output
    assert {} == await committed(stage.bootstrap_servers, stage.prefix)
    async with worker(stage.settings):
        await stage.wait_for("inbox", 2)


async def test_workers_share_the_partitions_and_hand_them_over(stage: WorkerStage, real_kafka: Broker) -> None:
    """Two workers, then one: every event is applied once, whichever has the partition."""
    assert real_kafka.kind != "mock"
    settings = stage.with_settings(batch_max_records=20)
    await stage.shop.apply(product("p", 10_000))
    events = dated((created(f"o{number}", {"p": 1}) for number in range(300)), now_plus(0))
    async with worker(settings) as first:
        await stage.producer.send(*events[:100])
        async with worker(settings) as second:
            await stage.producer.send(*events[100:200])
            await eventually(lambda: is_true(lambda: bool(second.consumer and second.consumer.status().assigned)))
            await eventually(
                lambda: is_true(lambda: len(first.consumer.status().assigned) < 28 if first.consumer else False)
            )
            await stage.producer.send(*events[200:250])
        await stage.producer.send(*events[250:])
        await stage.wait_for("inbox", 1 + len(events))
    assert (10_000, 300) == await stage.shop.stock("p")
    assert [] == await problems(stage.shop.pool)
