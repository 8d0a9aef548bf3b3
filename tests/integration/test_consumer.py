"""The consumer on a broker: invalid records, offsets, the flood breaker, bugs, outages, rebalances."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import asyncpg
import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from confluent_kafka import Producer as ConfluentProducer

from dev.servers.kafka import Broker
from domain.commands import ExpireOrder
from domain.model import LatePaymentPolicy, Policy
from engine.execute import execute
from engine.tasks import ExpiryTask
from inventory.settings import Settings
from inventory.worker import Worker, worker
from tests.integration.shop import Shop, body, created, open_shop, paid, problems, product
from tests.integration.stream import (
    Producer,
    committed,
    dated,
    ends,
    environment_of,
    eventually,
    now_plus,
    producing,
    settings_for,
)
from workers.consuming import applying

_REPOSITORY = Path(__file__).parents[2]
TTL = timedelta(seconds=3)


@dataclass
class Stage:
    """A broker with topics of its own, an empty database, and the settings of a worker for both."""

    settings: Settings
    shop: Shop
    producer: Producer
    bootstrap_servers: str
    prefix: str

    def with_settings(self, **changes: Any) -> Settings:
        """Return the worker's settings with changes, validated as all settings are."""
        return Settings(**{**self.settings.model_dump(exclude_unset=True), **changes})

    async def count(self, query: str) -> int:
        """Count the rows of a table expression."""
        number: int = await self.shop.pool.fetchval(f"SELECT count(*) FROM {query}")  # noqa: S608 - constants
        return number

    async def wait_for(self, query: str, number: int = 1) -> None:
        """Wait until a table expression has at least `number` rows."""
        try:
            await eventually(lambda: self._reached(query, number))
        except AssertionError:
            raise AssertionError(f"{query}: {await self.count(query)} instead of {number}") from None

    async def _reached(self, query: str, number: int) -> bool:
        return await self.count(query) >= number


@pytest.fixture
async def stage(kafka: Broker, topics: str, database_url: str) -> AsyncIterator[Stage]:
    """A stage without a worker."""
    settings = settings_for(kafka.bootstrap_servers, topics, database_url)
    async with open_shop(database_url) as shop, producing(kafka.bootstrap_servers, topics) as producer:
        yield Stage(settings, shop, producer, kafka.bootstrap_servers, topics)


async def test_each_invalid_record_harms_no_other(stage: Stage) -> None:
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
async def test_every_compression_is_read(stage: Stage, compression: str) -> None:
    """Producers choose the compression; an unsupported one would hold its partition back."""
    await stage.shop.apply(product("p", 10))
    settings = {"bootstrap.servers": stage.bootstrap_servers, "compression.type": compression, "linger.ms": 50}
    producer = ConfluentProducer(settings)
    for one in dated((created(f"o{number}", {"p": 1}) for number in range(5)), now_plus(0)):
        producer.produce(f"{stage.prefix}order.created", body(one) + b" " * 1000, key=b"k", partition=0)
    assert 0 == await asyncio.to_thread(producer.flush, 30)
    async with worker(stage.settings):
        await stage.wait_for("orders", 5)


async def test_a_header_name_that_is_not_utf8_blocks_nothing(stage: Stage) -> None:
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


async def test_offsets_follow_the_transaction(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
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
        await eventually(lambda: _is(lambda: bool(running.consumer and running.consumer.status().waits_because)))
        assert {} == await committed(stage.bootstrap_servers, stage.prefix)
        assert 200 == await _ask(running, "livez")
        away.set()
        await stage.wait_for("inbox", 2)
    assert await ends(stage.bootstrap_servers, stage.prefix) == await committed(stage.bootstrap_servers, stage.prefix)


async def test_a_stop_while_the_database_is_away_loses_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_a_flood_of_bad_records_pauses_the_consumer(stage: Stage) -> None:
    """At the breaker's limit consumption pauses, nothing of the batch is dead-lettered, and readiness says why."""
    for number in range(30):
        await stage.producer.raw("order.created", b"%d{" % number, partition=0)
    await stage.producer.raw("order.created", body(created("behind", {"p": 1})), partition=0)
    settings = stage.with_settings(dead_letter_breaker_consecutive=20)
    async with worker(settings) as running:
        assert running.consumer is not None
        await eventually(lambda: _is(lambda: running.consumer and running.consumer.status().paused_because))
        status, text = await _look(running, "readyz")
        assert (503, True) == (status, "dead letters in a row" in text)
        assert 200 == await _ask(running, "livez")
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


async def test_a_bug_ends_the_process_and_loses_nothing(stage: Stage) -> None:
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
    process = await _start(stage.settings, "-c", program)
    async with asyncio.timeout(90):
        output, _ = await process.communicate()
    assert 70 == process.returncode
    assert b"A bug stopped this worker" in output
    assert {} == await committed(stage.bootstrap_servers, stage.prefix)
    async with worker(stage.settings):
        await stage.wait_for("inbox", 2)


async def test_an_idle_worker_moves_the_watermarks(stage: Stage) -> None:
    """The watermarks of all idle partitions keep up with the time, so that holds expire in a quiet shop."""
    settings = stage.with_settings(order_reservation_ttl=timedelta(seconds=1))
    await stage.shop.apply(product("p", 10))
    await stage.producer.send(*dated([created("o", {"p": 1})], now_plus(0)))
    async with worker(settings):
        await stage.wait_for("orders WHERE status = 'expired'")
    assert 28 == await stage.count("stream_progress")
    assert 0 == await stage.count("stream_progress WHERE watermark > now()")


async def test_an_outage_expires_nothing_that_was_paid_meanwhile(stage: Stage) -> None:
    """While the worker is down for longer than a hold lasts, payments wait in Kafka: none of their holds expires.

    The second order is expired by the wall clock, to show what that does in the same situation.
    """
    settings = stage.with_settings(order_reservation_ttl=TTL, late_payment_policy="shortfall")
    await stage.shop.apply(product("p", 10))
    async with worker(settings):
        placed = datetime.now(UTC)
        await stage.producer.send(*dated([created("o1", {"p": 1}), created("o2", {"p": 1})], placed))
        await stage.wait_for("orders WHERE status = 'reserved'", 2)
    await stage.producer.send(*dated([paid("o1"), paid("o2")], placed + TTL / 2))
    await _wall_passes(placed + TTL)
    by_the_wall = Policy(order_ttl=TTL, late_payment=LatePaymentPolicy.SHORTFALL)
    now = datetime.now(UTC)
    await execute(stage.shop.pool, [ExpiryTask(ExpireOrder("o2", now))], by_the_wall, now)
    async with worker(settings):
        await stage.wait_for("inbox WHERE event_id LIKE 'paid-%'", 2)
    assert ("deducted", "expired") == (await stage.shop.status("o1"), await stage.shop.status("o2"))
    published = {key: type_ for type_, key in await stage.shop.outgoing() if key in {"o1", "o2"}}
    assert "inventory.reservation.deducted" == published["o1"]
    assert "inventory.reservation.shortfall" == published["o2"]


async def test_a_worker_that_was_frozen_expires_nothing_that_was_paid_meanwhile(
    stage: Stage, real_kafka: Broker
) -> None:
    """A process suspended for longer than a hold lasts reads an old fetch response, and does not trust its time."""
    assert real_kafka.kind != "mock"
    settings = stage.with_settings(order_reservation_ttl=TTL, late_payment_policy="shortfall")
    await stage.shop.apply(product("p", 100))
    process = await _start(settings, "-m", "inventory", "run")
    try:
        await stage.wait_for("stream_progress WHERE watermark > '2000-01-01'", 28)
        placed = datetime.now(UTC)
        names = [f"o{number}" for number in range(8)]
        await stage.producer.send(*dated([created(name, {"p": 1}) for name in names], placed))
        await stage.wait_for("orders WHERE status = 'reserved'", len(names))
        process.send_signal(signal.SIGSTOP)
        await stage.producer.send(*dated([paid(name) for name in names], placed + TTL / 2))
        await _wall_passes(placed + TTL + timedelta(seconds=2))
        process.send_signal(signal.SIGCONT)
        await stage.wait_for("inbox WHERE event_id LIKE 'paid-%'", len(names))
        assert {"deducted"} == {await stage.shop.status(name) for name in names}
    finally:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(90):
            await process.communicate()


async def test_a_backlog_is_read_in_the_order_of_events(stage: Stage) -> None:
    """After an outage an order is reserved before it is paid, although the events come from different topics."""
    await stage.shop.apply(product("p", 10_000))
    orders, later, batch = 500, 150, 50
    start = now_plus(-60)
    for number in range(orders + later):
        at = start + timedelta(milliseconds=100 * number)
        pair = (created(f"o{number}", {"p": 1}), paid(f"o{number - later}"))
        for one, there in zip(pair, (number < orders, number >= later), strict=True):
            if there:
                (event,) = dated([one], at)
                key = event["data"]["order_id"].encode()
                timestamp = round(at.timestamp() * 1000)
                await stage.producer.raw(event["topic"], body(event), key=key, timestamp_ms=timestamp)
    async with worker(stage.with_settings(batch_max_records=batch)):
        await stage.wait_for("inbox", 2 * orders + 1)
    # Several records of a partition are read per turn, so the very first payments may come early.
    assert await stage.count("outbox WHERE type LIKE '%.reserved'") >= orders - batch
    assert orders == await stage.count("outbox WHERE type LIKE '%.deducted'")


async def test_a_backlog_holds_the_watermark_back(stage: Stage) -> None:
    """The watermark of a partition with unread records is the newest event read, whatever other partitions do."""
    hour_ago = now_plus(-3600)
    events = dated([created(f"o{number}", {"p": 1}) for number in range(60)], hour_ago)
    for one in events:
        await stage.producer.raw(
            one["topic"], body(one), partition=2, timestamp_ms=round(hour_ago.timestamp() * 1000), key=b"k"
        )
    gate = asyncio.Semaphore(3)

    async def slowly(*args: Any, **options: Any) -> Any:
        await gate.acquire()
        return await execute(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(applying, "execute", slowly)
        async with worker(stage.with_settings(batch_max_records=10)):
            await stage.wait_for("inbox", 30)
            low_watermark = await stage.shop.pool.fetchval(
                "SELECT watermark FROM stream_progress WHERE topic = 'order.created' AND partition = 2"
            )
            assert abs(low_watermark - hour_ago) < timedelta(seconds=1)
            for _ in range(3 + 3):
                gate.release()
            await stage.wait_for("inbox", 60)
            # Once it is read to its end, its watermark catches up with the wall clock.
            await stage.wait_for("stream_progress WHERE watermark > now() - interval '10 s' AND partition = 2", 7)
            for _ in range(100):
                gate.release()


async def test_a_fast_clock_does_not_raise_the_watermark(stage: Stage) -> None:
    """An event dated hours ahead counts at its record's time, so it expires nobody else's hold."""
    settings = stage.with_settings(order_reservation_ttl=timedelta(minutes=5))
    await stage.shop.apply(product("p", 10))
    async with worker(settings):
        await stage.producer.send(*dated([created("o", {"p": 1})], now_plus(0)))
        await stage.producer.send(*dated([created(f"f{number}", {"p": 1}) for number in range(8)], now_plus(7200)))
        await stage.wait_for("inbox", 10)
        await stage.wait_for("stream_progress WHERE watermark > now() - interval '10 s'", 28)
        assert 0 == await stage.count("stream_progress WHERE watermark > now()")
    assert "reserved" == await stage.shop.status("o")


async def test_workers_share_the_partitions_and_hand_them_over(stage: Stage, real_kafka: Broker) -> None:
    """Two workers, then one: every event is applied once, whichever has the partition."""
    assert real_kafka.kind != "mock"
    settings = stage.with_settings(batch_max_records=20)
    await stage.shop.apply(product("p", 10_000))
    events = dated((created(f"o{number}", {"p": 1}) for number in range(300)), now_plus(0))
    async with worker(settings) as first:
        await stage.producer.send(*events[:100])
        async with worker(settings) as second:
            await stage.producer.send(*events[100:200])
            await eventually(lambda: _is(lambda: bool(second.consumer and second.consumer.status().assigned)))
            await eventually(
                lambda: _is(lambda: len(first.consumer.status().assigned) < 28 if first.consumer else False)
            )
            await stage.producer.send(*events[200:250])
        await stage.producer.send(*events[250:])
        await stage.wait_for("inbox", 1 + len(events))
    assert (10_000, 300) == await stage.shop.stock("p")
    assert [] == await problems(stage.shop.pool)


async def test_a_payment_in_a_partition_that_was_added_counts(stage: Stage, real_kafka: Broker) -> None:
    """An order is not expired for a payment that lies in a partition which did not exist when the worker started."""
    ttl = timedelta(seconds=8)
    settings = stage.with_settings(order_reservation_ttl=ttl, late_payment_policy="shortfall")
    await stage.shop.apply(product("p", 10))
    async with worker(settings):
        await stage.wait_for("stream_progress WHERE watermark > '2000-01-01'", 28)
        await stage.producer.send(*dated([created("o", {"p": 1}), created("unpaid", {"p": 1})], now_plus(0)))
        await stage.wait_for("orders WHERE status = 'reserved'", 2)
        admin = AIOKafkaAdminClient(bootstrap_servers=real_kafka.bootstrap_servers)
        await admin.start()
        await admin.create_partitions({f"{stage.prefix}payment.succeeded": NewPartitions(total_count=5)})
        await admin.close()
        async with producing(stage.bootstrap_servers, stage.prefix) as producer:
            await producer.send(*dated([paid("o")], now_plus(0)), partition=4)
        await stage.wait_for("orders WHERE status <> 'reserved'", 2)
    assert ["deducted", "expired"] == [await stage.shop.status("o"), await stage.shop.status("unpaid")]


async def test_a_worker_whose_clock_is_behind_goes_by_the_databases(stage: Stage) -> None:
    """Holds expire in time although this machine's clock is an hour behind; the skew is measured and reported once."""
    program = (
        "import time; real = time.time; time.time = lambda: real() - 3600\n"
        "from inventory import wiring; right = wiring.utc_now\n"
        "from datetime import timedelta; wiring.utc_now = lambda: right() - timedelta(hours=1)\n"
        "from inventory.cli import main\n"
        "import sys; sys.argv = ['inventory', 'run']\n"
        "main()\n"
    )
    settings = stage.with_settings(order_reservation_ttl=timedelta(seconds=1))
    await stage.shop.apply(product("p", 10))
    process = await _start(settings, "-c", program)
    try:
        await stage.producer.send(*dated([created("o", {"p": 1})], now_plus(0)))
        await stage.wait_for("orders WHERE status = 'expired'")
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(90):
            output, _ = await process.communicate()
    assert 1 == output.count(b"s behind the database's"), output


# --- helpers --------------------------------------------------------------------------------


async def _is(condition: Any) -> Any:
    return condition()


async def _look(running: Worker, path: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{running.port}/{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()

    return await asyncio.to_thread(get)


async def _ask(running: Worker, path: str) -> int:
    return (await _look(running, path))[0]


async def _wall_passes(moment: datetime) -> None:
    """Wait until the wall clock is past a moment; no condition can shorten this."""

    async def passed() -> bool:
        return datetime.now(UTC) > moment

    await eventually(passed)


async def _start(settings: Settings, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=_REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(_REPOSITORY), **environment_of(settings)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
