"""The cache and PostgreSQL: commits reach it, readers fill it, and it may be absent."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import pytest
from redis.asyncio import Redis
from typing_extensions import override

from dev.servers.redis import start as start_redis
from domain.commands import AdjustStock, UpdateCart
from domain.model import Operation
from engine import metrics, reading
from engine.reading import CacheHealth, StockReader
from engine.tasks import BatchResult
from storage import stock
from storage.cache import Batch, Cache
from storage.database import Pool
from storage.stock import StockLevel
from tests.integration import sample
from tests.integration.caching import NOW, is_cached, is_true, level, product, undated, until
from workers import cache as worker_cache
from workers.cache import CacheRefresher, Refreshed

# --- after a commit -----------------------------------------------------------------------------


async def test_commits_reach_the_cache(sample_pool: Pool, cache: Cache) -> None:
    """Readers of the cache see the stock, orders and carts that several commits changed."""
    refresher = CacheRefresher(cache, lambda: NOW)
    for command in (
        sample.created("o", {"apple": 3}),
        UpdateCart(sample.cause("k"), "k", {"apple": 2}),
        AdjustStock(sample.cause("x"), "apple", Operation.ADD, 1, reason="x"),
    ):
        refresher.after_commit(await sample.apply(sample_pool, command))
    assert Refreshed(3, 3) == await refresher.run_once()
    assert Refreshed(0, 0) == await refresher.run_once()
    async with sample_pool.acquire() as connection:
        assert undated(await stock.read_stock(connection, ["apple"])) == await cache.stock(["apple"])
        assert await stock.read_order(connection, "o") == await cache.order("o")
        assert await stock.read_cart(connection, "k") == await cache.cart("k")


async def test_reports_out_of_order_keep_the_newest(cache: Cache) -> None:
    """Two transactions of one process may report in another order than they committed in."""
    refresher = CacheRefresher(cache, lambda: NOW)
    for version in (1, 3, 2):
        refresher.after_commit(BatchResult([], products={"apple": product("apple", version)}))
    await refresher.run_once()
    assert 3 == (await cache.stock(["apple"]))["apple"].version


async def test_the_queue_is_bounded(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest value is dropped, and one step writes at most a fixed number."""
    monkeypatch.setattr(worker_cache, "MAX_PENDING", 5)
    monkeypatch.setattr(worker_cache, "MAX_PER_WRITE", 3)
    refresher = CacheRefresher(cache, lambda: NOW)
    refresher.after_commit(BatchResult([], products={f"p{n}": product(f"p{n}", 1) for n in range(8)}))
    assert [3, 2, 0] == [(await refresher.run_once()).sent for _ in range(3)]
    assert {"p3", "p4", "p5", "p6", "p7"} == set(await cache.stock([f"p{n}" for n in range(8)]))


async def test_many_values_go_in_bounded_calls(cache: Cache) -> None:
    """More values than one script call takes all arrive."""
    levels = [level(f"p{n}", 1) for n in range(1234)]
    assert 1234 == await cache.write(Batch(levels), NOW)
    assert 1234 == len(await cache.stock([entry.product_id for entry in levels]))


# --- reading through ----------------------------------------------------------------------------


async def test_readers_fill_what_is_missing(sample_pool: Pool, cache: Cache) -> None:
    """The first reader queries PostgreSQL and caches the answer; the next is served from the cache."""
    await sample.apply(sample_pool, sample.created("o", {"apple": 3}), UpdateCart(sample.cause("k"), "k", {"apple": 2}))
    reader = StockReader(sample_pool, cache, lambda: NOW)
    blind = StockReader(None, cache, lambda: NOW)
    for ask in _questions():
        first = await ask(reader)
        assert first is not None
        assert first == await ask(blind)


async def test_an_unknown_product_is_no_entry(sample_pool: Pool, cache: Cache) -> None:
    """A product that does not exist is left out, and the order of the request is kept."""
    assert ["bread", "apple"] == list(
        await StockReader(sample_pool, cache, lambda: NOW).stock(["bread", "nothing", "apple"])
    )


async def test_without_a_cache_readers_query_postgresql(sample_pool: Pool) -> None:
    """The reader works without a configured Redis."""
    reader = StockReader(sample_pool, None, lambda: NOW)
    assert (50, ["bread"]) == (
        (await reader.stock(["apple"]))["apple"].on_hand,
        [entry.product_id for entry in await reader.low_stock()],
    )


async def test_readers_and_writers_in_a_race_end_right(sample_pool: Pool, redis_url: str) -> None:
    """Readers fill and rebuild while commits move stock across its threshold; in the end cache and tables agree."""
    caches = [Cache(redis_url) for _ in range(3)]
    refreshers = [CacheRefresher(cache, lambda: NOW) for cache in caches]
    redis: Any = Redis.from_url(redis_url)

    async def change(refresher: CacheRefresher, name: str) -> None:
        for number in range(15):
            operation = Operation.ADD if number % 2 else Operation.SUBTRACT
            command = AdjustStock(sample.cause(f"{name}{number}"), "bread", operation, 1, 4, reason="x")
            refresher.after_commit(await sample.apply(sample_pool, command))
            await refresher.run_once()

    async def keep_reading(cache: Cache) -> None:
        reader = StockReader(sample_pool, cache, lambda: NOW)
        for number in range(30):
            await reader.stock(["bread"])
            await reader.low_stock()
            if number % 10 == 0:
                await redis.delete("inventory:low_stock")

    names = ("x", "y", "z")
    await asyncio.gather(
        *(change(refresher, name) for refresher, name in zip(refreshers, names, strict=True)),
        *map(keep_reading, caches),
    )
    async with sample_pool.acquire() as connection:
        truth = await stock.read_stock(connection, ["bread"])
        low = await stock.read_low_stock(connection, 10)
    reader = StockReader(sample_pool, caches[0], lambda: NOW)
    in_cache = await reader.low_stock()
    assert undated(truth) == undated(await reader.stock(["bread"]))
    assert [row._replace(updated_at=None) for row in low] == [row._replace(updated_at=None) for row in in_cache]
    await redis.aclose()
    for cache in caches:
        await cache.close()


# --- Redis comes and goes -----------------------------------------------------------------------


async def test_redis_may_die_and_come_back(
    sample_pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Commits go on and readers query PostgreSQL; loss and return are logged once each; queued values are written."""
    caplog.set_level(logging.INFO, "engine.reading")
    monkeypatch.setattr(reading, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(worker_cache, "RETRY_SECONDS", 0.02)
    server = start_redis()
    cache, health = Cache(server.url), CacheHealth()
    refresher, reader = CacheRefresher(cache, lambda: NOW, health), StockReader(sample_pool, cache, lambda: NOW, health)
    errors = _cache_errors()
    loop = asyncio.create_task(refresher.run())
    try:
        refresher.after_commit(await sample.apply(sample_pool, sample.created("o1", {"apple": 1})))
        await until(lambda: is_cached(cache, "apple", 49))
        await asyncio.to_thread(server.stop)
        for number in range(2, 6):
            refresher.after_commit(await sample.apply(sample_pool, sample.created(f"o{number}", {"apple": 1})))
            await until(lambda: is_true(health.lost))
            assert 50 - number == (await reader.stock(["apple"]))["apple"].available
        assert _cache_errors() > errors
        await asyncio.to_thread(server.start)
        await until(lambda: is_cached(cache, "apple", 45))
        await until(lambda: is_true(not health.lost))
    finally:
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop
        await reading.close_quietly(cache)
        server.close()
    assert ["Redis is lost", "Redis is back"] == [entry.getMessage()[:13] for entry in caplog.records]


async def test_a_value_queued_for_long_does_not_bring_old_stock_back(sample_pool: Pool) -> None:
    """A process that could not reach Redis for minutes must not fill an empty key with an outdated value."""
    server = start_redis()
    cache = Cache(server.url)
    ticker = iter((0.0, 0.0, 61.0))
    refresher = CacheRefresher(cache, lambda: NOW, CacheHealth(lambda: 0.0), lambda: next(ticker))
    server.stop()
    refresher.after_commit(await sample.apply(sample_pool, sample.created("o", {"apple": 1})))
    assert Refreshed(2, 0) == await refresher.run_once()
    server.start()
    assert Refreshed(2, 0) == await refresher.run_once()
    assert {} == await cache.stock(["apple"])
    await cache.close()
    server.close()


async def test_while_redis_is_away_readers_do_not_wait_for_it(sample_pool: Pool) -> None:
    """After one failure Redis is not tried for a while: an unanswered call delays one reader, not all."""
    asked = 0

    class _Gone(Cache):
        @override
        async def stock(self, product_ids: Collection[str]) -> dict[str, StockLevel]:
            nonlocal asked
            asked += 1
            raise TimeoutError(str(product_ids))

    cache = _Gone("redis://127.0.0.1:1/0")
    now = 0.0
    reader = StockReader(sample_pool, cache, lambda: NOW, CacheHealth(lambda: now))
    for _ in range(5):
        assert 50 == (await reader.stock(["apple"]))["apple"].on_hand
    now = 2.0
    await reader.stock(["apple"])
    assert 2 == asked
    await cache.close()


async def test_a_bug_in_the_cache_stops_nothing(caplog: pytest.LogCaptureFixture, cache: Cache) -> None:
    """Values that cannot be written are dropped with a logged traceback, and the next ones are written."""
    refresher = CacheRefresher(cache, lambda: NOW)
    loop = asyncio.create_task(refresher.run())
    refresher.after_commit(BatchResult([], products={"\ud800": product("\ud800", 1)}))
    await until(lambda: is_true(any(entry.exc_info for entry in caplog.records)))
    refresher.after_commit(BatchResult([], products={"apple": product("apple", 1)}))
    await until(lambda: is_cached(cache, "apple", 9))
    loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop


def _questions() -> list[Callable[[StockReader], Awaitable[object]]]:
    return [
        lambda reader: reader.stock(["apple", "bread"]),
        lambda reader: reader.low_stock(),
        lambda reader: reader.order("o"),
        lambda reader: reader.cart("k"),
    ]


def _cache_errors() -> float:
    return float(metrics.CACHE_ERRORS._value.get())  # noqa: SLF001 - prometheus_client has no reader
