"""The sweeper on a real database: it goes by the low watermark, in bounded sweeps, and expires nothing twice."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest

from engine.execute import execute
from engine.tasks import BatchResult
from storage.save import PartitionProgress
from tests.integration.shop import POLICY, T0, Shop, ago, cart, created, paid, problems, product
from workers import sweeper as sweeper_module
from workers.sweeper import Sweeper, Swept


def _sweeper(shop: Shop, reports: list[BatchResult] | None = None) -> Sweeper:
    kept: list[BatchResult] = [] if reports is None else reports
    return Sweeper(shop.pool, POLICY, 0.05, lambda: T0, kept.append)


async def test_nothing_expires_before_anything_was_read(shop: Shop) -> None:
    """An unread partition holds back every hold."""
    await shop.apply(product("p", 5), created("o", {"p": 1}, minutes=-9999))
    assert Swept(0, 0) == await _sweeper(shop).run_once()


async def test_without_a_stream_the_databases_clock_decides(shop: Shop) -> None:
    """Where nothing is consumed, a hold expires when its time to live has passed, and not before."""
    await shop.rows("DELETE FROM stream_progress RETURNING 1")
    old, new = ago(minutes=16), ago(minutes=14)
    await shop.apply(product("p", 5), created("old", {"p": 1}) | old, created("new", {"p": 1}) | new)
    assert Swept(1, 0) == await _sweeper(shop).run_once()
    assert ["expired", "reserved"] == [await shop.status("old"), await shop.status("new")]


async def test_a_watermark_ahead_of_the_databases_clock_expires_nothing_early(shop: Shop) -> None:
    """The row is an hour ahead; an order that was placed just now keeps its hold, swept for or wanted by another."""
    await shop.read_up_to(datetime.now(UTC) + timedelta(hours=1))
    await shop.apply(product("p", 1), created("o", {"p": 1}) | ago(seconds=0))
    assert Swept(0, 0) == await _sweeper(shop).run_once()
    await shop.apply(created("wants it", {"p": 1}) | ago(seconds=0))
    assert ["reserved", "rejected"] == [await shop.status("o"), await shop.status("wants it")]


async def test_orders_and_carts_expire_when_the_stream_was_read_past_their_deadline(shop: Shop) -> None:
    """An order expires after 15 minutes, a cart after 30, and neither earlier."""
    reports: list[BatchResult] = []
    await shop.apply(product("p", 5), created("o", {"p": 1}), cart("c", {"p": 2}))
    expected = [(15, 0), (15.001, 1), (30, 0), (30.001, 1), (60, 0)]
    for minutes, expired in expected:
        await shop.read_up_to(T0 + timedelta(minutes=minutes))
        assert Swept(expired, 0) == await _sweeper(shop, reports).run_once(), minutes
    assert (5, 0) == await shop.stock("p")
    assert [1, 1] == [report.expired for report in reports]
    assert {"o"} == set(reports[0].orders)


async def test_the_slowest_partition_sets_the_clock(shop: Shop) -> None:
    """One partition that was not read past the deadline keeps every hold."""
    await shop.apply(product("p", 5), created("o", {"p": 1}))
    late, behind = T0 + timedelta(hours=1), T0 + timedelta(minutes=10)
    rows = [PartitionProgress("order.created", n, 1, late) for n in range(5)] + [
        PartitionProgress("payment.succeeded", 3, 1, behind)
    ]
    await execute(shop.pool, [], POLICY, T0, progress=rows)
    assert Swept(0, 0) == await _sweeper(shop).run_once()
    await execute(shop.pool, [], POLICY, T0, progress=[PartitionProgress("payment.succeeded", 3, 2, late)])
    assert Swept(1, 0) == await _sweeper(shop).run_once()


async def test_a_sweep_takes_a_bounded_number_the_oldest_first(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is due, one sweep takes at most the limit of each kind, and the next one goes on."""
    monkeypatch.setattr(sweeper_module, "SWEEP_LIMIT", 3)
    await shop.apply(product("p", 50), *(created(f"o{n}", {"p": 1}, minutes=-60 - n) for n in range(8)))
    await shop.read_up_to(T0)
    counts = [(await _sweeper(shop).run_once()).expired for _ in range(4)]
    assert [3, 3, 2, 0] == counts
    order = [key for type_, key in await shop.outgoing() if type_.endswith("expired")]
    assert [f"o{n}" for n in range(7, -1, -1)] == list(
        chain(*(sorted(order[i : i + 3], reverse=True) for i in (0, 3, 6)))
    )


@pytest.mark.parametrize("table", ["order", "cart"])
async def test_a_sweep_skips_rows_that_another_transaction_has_locked(shop: Shop, table: str) -> None:
    """It does not wait for a locked order or cart, and expires the others."""
    await shop.apply(product("p", 5), product("q", 5))
    for name, lines in (("locked", {"p": 1}), ("free", {"q": 1})):
        await shop.apply(created(name, lines, minutes=-60), cart(name, lines, minutes=-60))
    await shop.read_up_to(T0)
    async with shop.pool.acquire() as other, other.transaction():
        await other.execute(f"SELECT FROM {table}s WHERE {table}_id = 'locked' FOR UPDATE")
        async with asyncio.timeout(5):
            assert Swept(3, 0) == await _sweeper(shop).run_once()
    held = f"SELECT {table}_id FROM {table}s WHERE expires_at IS NOT NULL"  # noqa: S608 - constants
    assert [("locked",)] == await shop.rows(held)
    assert Swept(1, 0) == await _sweeper(shop).run_once()


async def test_a_paid_order_does_not_expire(shop: Shop) -> None:
    """A deducted order has no deadline."""
    await shop.apply(product("p", 5), created("o", {"p": 1}), paid("o"))
    await shop.read_up_to(T0 + timedelta(days=1))
    assert Swept(0, 0) == await _sweeper(shop).run_once()
    assert (4, 0) == await shop.stock("p")


async def test_it_runs_until_it_is_stopped_and_waits_for_a_database_that_is_away(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that fails because the database is away is repeated."""
    failures = [ConnectionResetError("cut"), TimeoutError("slow")]

    async def flaky(*args: Any, **options: Any) -> BatchResult:
        if failures:
            raise failures.pop()
        return await execute(*args, **options)

    monkeypatch.setattr(sweeper_module, "execute", flaky)
    await shop.apply(product("p", 5), created("o", {"p": 1}))
    await shop.read_up_to(T0 + timedelta(days=1))
    reports: asyncio.Queue[BatchResult] = asyncio.Queue()
    running = asyncio.create_task(Sweeper(shop.pool, POLICY, 0.01, lambda: T0, reports.put_nowait).run())
    async with asyncio.timeout(10):
        assert 1 == (await reports.get()).expired
    running.cancel()
    assert [] == await problems(shop.pool)
