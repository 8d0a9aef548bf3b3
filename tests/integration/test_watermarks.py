"""Watermarks on a broker: outages, backlogs, added partitions and clocks that differ expire nothing that was paid."""

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from dev.servers.kafka import Broker
from domain.commands import ExpireOrder
from domain.model import LatePaymentPolicy, Policy
from engine.execute import execute
from engine.tasks import ExpiryTask
from inventory.worker import worker
from tests.integration.shop import body, created, paid, product
from tests.integration.stream import dated, now_plus, producing
from tests.integration.worker_stage import TTL, WorkerStage, open_stage, start_program, wall_passes
from workers.consuming import applying


@pytest.fixture
async def stage(kafka: Broker, topics: str, database_url: str) -> AsyncIterator[WorkerStage]:
    """A stage without a worker."""
    async with open_stage(kafka, topics, database_url) as opened:
        yield opened


async def test_an_idle_worker_moves_the_watermarks(stage: WorkerStage) -> None:
    """The watermarks of all idle partitions keep up with the time, so that holds expire in a quiet shop."""
    settings = stage.with_settings(order_reservation_ttl=timedelta(seconds=1))
    await stage.shop.apply(product("p", 10))
    await stage.producer.send(*dated([created("o", {"p": 1})], now_plus(0)))
    async with worker(settings):
        await stage.wait_for("orders WHERE status = 'expired'")
    assert 28 == await stage.count("stream_progress")
    assert 0 == await stage.count("stream_progress WHERE watermark > now()")


async def test_an_outage_expires_nothing_that_was_paid_meanwhile(stage: WorkerStage) -> None:
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
    await wall_passes(placed + TTL)
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
    stage: WorkerStage, real_kafka: Broker
) -> None:
    """A process suspended for longer than a hold lasts reads an old fetch response, and does not trust its time."""
    assert real_kafka.kind != "mock"
    settings = stage.with_settings(order_reservation_ttl=TTL, late_payment_policy="shortfall")
    await stage.shop.apply(product("p", 100))
    process = await start_program(settings, "-m", "inventory", "run")
    try:
        await stage.wait_for("stream_progress WHERE watermark > '2000-01-01'", 28)
        placed = datetime.now(UTC)
        names = [f"o{number}" for number in range(8)]
        await stage.producer.send(*dated([created(name, {"p": 1}) for name in names], placed))
        await stage.wait_for("orders WHERE status = 'reserved'", len(names))
        process.send_signal(signal.SIGSTOP)
        await stage.producer.send(*dated([paid(name) for name in names], placed + TTL / 2))
        await wall_passes(placed + TTL + timedelta(seconds=2))
        process.send_signal(signal.SIGCONT)
        await stage.wait_for("inbox WHERE event_id LIKE 'paid-%'", len(names))
        assert {"deducted"} == {await stage.shop.status(name) for name in names}
    finally:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(90):
            await process.communicate()


async def test_a_backlog_is_read_in_the_order_of_events(stage: WorkerStage) -> None:
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


async def test_a_backlog_holds_the_watermark_back(stage: WorkerStage) -> None:
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


async def test_a_fast_clock_does_not_raise_the_watermark(stage: WorkerStage) -> None:
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


async def test_a_payment_in_a_partition_that_was_added_counts(stage: WorkerStage, real_kafka: Broker) -> None:
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


async def test_a_worker_whose_clock_is_behind_goes_by_the_databases(stage: WorkerStage) -> None:
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
    process = await start_program(settings, "-c", program)
    try:
        await stage.producer.send(*dated([created("o", {"p": 1})], now_plus(0)))
        await stage.wait_for("orders WHERE status = 'expired'")
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(90):
            output, _ = await process.communicate()
    assert 1 == output.count(b"s behind the database's"), output
