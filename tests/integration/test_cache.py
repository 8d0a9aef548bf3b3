"""The cache never replaces a newer value with an older one, fills itself, and may be absent."""

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from typing_extensions import override

from dev.servers.redis import start as start_redis
from domain.commands import AdjustStock, CreateProduct, UpdateCart
from domain.model import CartStatus, Operation, OrderStatus, Product, StockStatus
from engine import metrics, reading
from engine.reading import CacheHealth, StockReader
from engine.tasks import BatchResult
from storage import stock
from storage.cache import CACHE_ERRORS, LOW_STOCK_TTL, STOCK_TTL, Batch, Cache
from storage.database import Pool, open_pool
from storage.stock import Reservation, StockLevel
from tests.integration import sample
from workers import cache as worker_cache
from workers.cache import CacheRefresher, Refreshed

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
BOUND_SECONDS = 30.0


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[Cache]:
    """A cache on an empty Redis."""
    opened = Cache(redis_url, "t:")
    yield opened
    await opened.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    """A plain Redis client, to inspect what the cache stored; untyped because redis types its two clients as one."""
    opened = Redis.from_url(redis_url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """A pool on a database where apples are in stock and bread is low."""
    opened = await open_pool(database_url, 4)
    await sample.apply(
        opened,
        CreateProduct(sample.cause("a"), "apple", 50, 10),
        CreateProduct(sample.cause("b"), "bread", 5, 5),
    )
    yield opened
    await opened.close()


# --- the version guard --------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(1, 5))))
async def test_the_newest_version_stays_in_whatever_order_they_come(cache: Cache, order: tuple[int, ...]) -> None:
    """Stock, orders and carts all end at the newest version."""
    for version in order:
        batch = Batch(
            [level("apple", version)],
            [reservation("o", version)],
            [reservation("k", version, status=CartStatus.ACTIVE)],
        )
        await cache.write(batch, NOW)
    order_read, cart_read = await cache.order("o"), await cache.cart("k")
    assert order_read is not None
    assert cart_read is not None
    assert (4, 4, 4) == ((await cache.stock(["apple"]))["apple"].version, order_read.version, cart_read.version)


async def test_versions_are_numbers_not_text(cache: Cache) -> None:
    """Version 10 is newer than version 9."""
    await cache.write(Batch([level("apple", 10)]), NOW)
    assert 0 == await cache.write(Batch([level("apple", 9)]), NOW)


async def test_racing_writers_end_at_the_newest(redis_url: str) -> None:
    """Twenty writers on connections of their own, each with a share of the versions, shuffled."""
    writers = [Cache(redis_url) for _ in range(20)]
    versions = list(range(1, 201))
    random.Random(7).shuffle(versions)  # noqa: S311 - a test's order

    async def write(writer: Cache, share: list[int]) -> None:
        for version in share:
            await writer.write(Batch([level("apple", version)]), NOW)

    await asyncio.gather(*(write(writer, versions[place::20]) for place, writer in enumerate(writers)))
    assert 200 == (await writers[0].stock(["apple"]))["apple"].version
    for writer in writers:
        await writer.close()


async def test_an_ended_hold_does_not_come_back(cache: Cache) -> None:
    """After an order expired, a late writer with its reservation changes nothing."""
    await cache.write(Batch(orders=[reservation("o", 2, status=OrderStatus.EXPIRED, lines={})]), NOW)
    await cache.write(Batch(orders=[reservation("o", 1)]), NOW)
    assert reservation("o", 2, status=OrderStatus.EXPIRED, lines={}) == await cache.order("o")


async def test_values_live_as_long_as_said(cache: Cache, redis: Any) -> None:
    """Stock lives 5 minutes, the low-stock list 10, a reservation until its deadline and at most 5 minutes."""
    soon = reservation("soon", 1, expires_at=NOW + timedelta(seconds=40))
    later = reservation("later", 1, expires_at=NOW + timedelta(hours=1))
    overdue = reservation("overdue", 1, expires_at=NOW - timedelta(hours=1))
    await cache.write(Batch([level("apple", 1)], [soon, later], [overdue]), NOW)
    await cache.finish_low_stock(await cache.begin_low_stock(), [level("bread", 1, low=True)])
    names = ("available:apple", "low_stock", "reservation:order:soon", "reservation:order:later")
    keys = [f"t:inventory:{name}" for name in (*names, "reservation:cart:overdue")]
    assert [STOCK_TTL, LOW_STOCK_TTL, timedelta(seconds=40), timedelta(minutes=5), timedelta(minutes=5)] == [
        timedelta(seconds=round(await redis.pttl(key) / 1000)) for key in keys
    ]
    assert set(keys) == {key.decode() for key in await redis.keys("*")}


async def test_a_late_value_only_replaces_an_older_one(cache: Cache) -> None:
    """A value queued while Redis was away may be older than one that has expired there, so it only replaces."""
    await cache.write(Batch([level("apple", 1)]), NOW)
    await cache.write(Batch([level("apple", 2), level("bread", 2)], late=True), NOW)
    assert {"apple": 2} == {key: value.version for key, value in (await cache.stock(["apple", "bread"])).items()}


# --- the low-stock list -------------------------------------------------------------------------


async def test_the_list_follows_changes(cache: Cache) -> None:
    """Once built, a product that runs low joins the list and one that recovers leaves it, and stays out of it."""
    await cache.finish_low_stock(await cache.begin_low_stock(), [level("apple", 1, low=True)])
    await cache.write(Batch([level("bread", 3, low=True), level("apple", 2)]), NOW)
    await cache.write(Batch([level("apple", 1, low=True), level("bread", 2)]), NOW)
    assert [level("bread", 3, low=True)] == await cache.low_stock()


async def test_the_list_remembers_what_the_value_forgot(cache: Cache, redis: Any) -> None:
    """A product's own value expires before the list does: a late write is then compared with the list."""
    await cache.finish_low_stock(await cache.begin_low_stock(), [level("apple", 9, low=True)])
    await redis.delete("t:inventory:available:apple")
    await cache.write(Batch([level("apple", 8)]), NOW)
    assert [level("apple", 9, low=True)] == await cache.low_stock()


async def test_nobody_makes_a_list_out_of_one_product(cache: Cache) -> None:
    """A product that runs low while there is no list does not become a list of one."""
    await cache.write(Batch([level("bread", 3, low=True)]), NOW)
    assert None is await cache.low_stock()


async def test_an_empty_list_is_a_list(cache: Cache) -> None:
    """Nothing low is an answer, not a miss."""
    await cache.finish_low_stock(await cache.begin_low_stock(), [])
    assert [] == await cache.low_stock()


async def test_what_changes_during_a_rebuild_wins(cache: Cache) -> None:
    """Between reading and writing the list, products ran low, recovered, and late writers came."""
    token = await cache.begin_low_stock()
    read = [level("apple", 2, low=True), level("bread", 5, low=True), level("cheese", 4, low=True)]
    await cache.write(Batch([level("apple", 3), level("dates", 7, low=True), level("bread", 4)]), NOW)
    assert await cache.finish_low_stock(token, read)
    assert ["bread", "cheese", "dates"] == [entry.product_id for entry in await cache.low_stock() or ()]


async def test_a_rebuild_that_missed_changes_writes_nothing(cache: Cache, redis: Any) -> None:
    """Redis was emptied meanwhile and another rebuild began: what the first one read may be stale."""
    token = await cache.begin_low_stock()
    await redis.flushall()
    await cache.write(Batch([level("apple", 3)]), NOW)
    await cache.begin_low_stock()
    assert not await cache.finish_low_stock(token, [level("apple", 2, low=True)])
    assert None is await cache.low_stock()


async def test_of_two_rebuilds_the_first_to_finish_counts(cache: Cache) -> None:
    """Both collect the same changes; the second finds the list rebuilt and does not replace it."""
    first, second = await cache.begin_low_stock(), await cache.begin_low_stock()
    assert await cache.finish_low_stock(first, [level("apple", 1, low=True)])
    await cache.write(Batch([level("apple", 2)]), NOW)
    assert not await cache.finish_low_stock(second, [level("apple", 1, low=True)])
    assert [] == await cache.low_stock()


async def test_a_product_id_is_not_parsed_as_a_status(cache: Cache) -> None:
    """A product whose id contains the cache's own JSON is listed as low only when it is low."""
    tricky = '{"version":9,"stock_status":"ok"'
    await cache.finish_low_stock(await cache.begin_low_stock(), [level(tricky, 1, low=True)])
    assert [tricky] == [entry.product_id for entry in await cache.low_stock() or ()]


# --- after a commit -----------------------------------------------------------------------------


async def test_commits_reach_the_cache(pool: Pool, cache: Cache) -> None:
    """Readers of the cache see the stock, orders and carts that several commits changed."""
    refresher = CacheRefresher(cache, lambda: NOW)
    for command in (
        sample.created("o", {"apple": 3}),
        UpdateCart(sample.cause("k"), "k", {"apple": 2}),
        AdjustStock(sample.cause("x"), "apple", Operation.ADD, 1, reason="x"),
    ):
        refresher.after_commit(await sample.apply(pool, command))
    assert Refreshed(3, 3) == await refresher.run_once()
    assert Refreshed(0, 0) == await refresher.run_once()
    async with pool.acquire() as connection:
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


async def test_readers_fill_what_is_missing(pool: Pool, cache: Cache) -> None:
    """The first reader queries PostgreSQL and caches the answer; the next is served from the cache."""
    await sample.apply(pool, sample.created("o", {"apple": 3}), UpdateCart(sample.cause("k"), "k", {"apple": 2}))
    reader = StockReader(pool, cache, lambda: NOW)
    blind = StockReader(None, cache, lambda: NOW)
    for ask in _questions():
        first = await ask(reader)
        assert first is not None
        assert first == await ask(blind)


async def test_an_unknown_product_is_no_entry(pool: Pool, cache: Cache) -> None:
    """A product that does not exist is left out, and the order of the request is kept."""
    assert ["bread", "apple"] == list(await StockReader(pool, cache, lambda: NOW).stock(["bread", "nothing", "apple"]))


async def test_without_a_cache_readers_query_postgresql(pool: Pool) -> None:
    """The reader works without a configured Redis."""
    reader = StockReader(pool, None, lambda: NOW)
    assert (50, ["bread"]) == (
        (await reader.stock(["apple"]))["apple"].on_hand,
        [entry.product_id for entry in await reader.low_stock()],
    )


async def test_readers_and_writers_in_a_race_end_right(pool: Pool, redis_url: str) -> None:
    """Readers fill and rebuild while commits move stock across its threshold; in the end cache and tables agree."""
    caches = [Cache(redis_url) for _ in range(3)]
    refreshers = [CacheRefresher(cache, lambda: NOW) for cache in caches]
    redis: Any = Redis.from_url(redis_url)

    async def change(refresher: CacheRefresher, name: str) -> None:
        for number in range(15):
            operation = Operation.ADD if number % 2 else Operation.SUBTRACT
            command = AdjustStock(sample.cause(f"{name}{number}"), "bread", operation, 1, 4, reason="x")
            refresher.after_commit(await sample.apply(pool, command))
            await refresher.run_once()

    async def keep_reading(cache: Cache) -> None:
        reader = StockReader(pool, cache, lambda: NOW)
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
    async with pool.acquire() as connection:
        truth = await stock.read_stock(connection, ["bread"])
        low = await stock.read_low_stock(connection, 10)
    reader = StockReader(pool, caches[0], lambda: NOW)
    in_cache = await reader.low_stock()
    assert undated(truth) == undated(await reader.stock(["bread"]))
    assert [row._replace(updated_at=None) for row in low] == [row._replace(updated_at=None) for row in in_cache]
    await redis.aclose()
    for cache in caches:
        await cache.close()


# --- Redis comes and goes -----------------------------------------------------------------------


async def test_redis_may_die_and_come_back(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Commits go on and readers query PostgreSQL; loss and return are logged once each; queued values are written."""
    caplog.set_level(logging.INFO, "engine.reading")
    monkeypatch.setattr(reading, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(worker_cache, "RETRY_SECONDS", 0.02)
    server = start_redis()
    cache, health = Cache(server.url), CacheHealth()
    refresher, reader = CacheRefresher(cache, lambda: NOW, health), StockReader(pool, cache, lambda: NOW, health)
    errors = _cache_errors()
    loop = asyncio.create_task(refresher.run())
    try:
        refresher.after_commit(await sample.apply(pool, sample.created("o1", {"apple": 1})))
        await _until(lambda: _cached(cache, "apple", 49))
        await asyncio.to_thread(server.stop)
        for number in range(2, 6):
            refresher.after_commit(await sample.apply(pool, sample.created(f"o{number}", {"apple": 1})))
            await _until(lambda: _is(health.lost))
            assert 50 - number == (await reader.stock(["apple"]))["apple"].available
        assert _cache_errors() > errors
        await asyncio.to_thread(server.start)
        await _until(lambda: _cached(cache, "apple", 45))
        await _until(lambda: _is(not health.lost))
    finally:
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop
        await reading.close_quietly(cache)
        server.close()
    assert ["Redis is lost", "Redis is back"] == [entry.getMessage()[:13] for entry in caplog.records]


async def test_a_value_queued_for_long_does_not_bring_old_stock_back(pool: Pool) -> None:
    """A process that could not reach Redis for minutes must not fill an empty key with an outdated value."""
    server = start_redis()
    cache = Cache(server.url)
    ticker = iter((0.0, 0.0, 61.0))
    refresher = CacheRefresher(cache, lambda: NOW, CacheHealth(lambda: 0.0), lambda: next(ticker))
    server.stop()
    refresher.after_commit(await sample.apply(pool, sample.created("o", {"apple": 1})))
    assert Refreshed(2, 0) == await refresher.run_once()
    server.start()
    assert Refreshed(2, 0) == await refresher.run_once()
    assert {} == await cache.stock(["apple"])
    await cache.close()
    server.close()


async def test_while_redis_is_away_readers_do_not_wait_for_it(pool: Pool) -> None:
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
    reader = StockReader(pool, cache, lambda: NOW, CacheHealth(lambda: now))
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
    await _until(lambda: _is(any(entry.exc_info for entry in caplog.records)))
    refresher.after_commit(BatchResult([], products={"apple": product("apple", 1)}))
    await _until(lambda: _cached(cache, "apple", 9))
    loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop


def level(product_id: str, version: int, *, low: bool = False) -> StockLevel:
    """Return a product's stock level."""
    return StockLevel(product_id, 9, 0, 9, 10 if low else 0, StockStatus.LOW if low else StockStatus.OK, version)


def undated(levels: dict[str, StockLevel]) -> dict[str, StockLevel]:
    """Return levels without the time of their change, which a commit does not leave in the cache."""
    return {product_id: level._replace(updated_at=None) for product_id, level in levels.items()}


def product(product_id: str, version: int) -> Product:
    """Return the domain's product."""
    return Product(product_id, 9, 0, 0, StockStatus.OK, version, version)


def reservation(
    owner_id: str,
    version: int,
    *,
    status: OrderStatus | CartStatus = OrderStatus.RESERVED,
    lines: dict[str, int] | None = None,
    expires_at: datetime | None = None,
) -> Reservation:
    """Return what an order or a cart holds."""
    return Reservation(owner_id, "u", status, {"apple": 2} if lines is None else lines, expires_at, version)


def _questions() -> list[Callable[[StockReader], Awaitable[object]]]:
    return [
        lambda reader: reader.stock(["apple", "bread"]),
        lambda reader: reader.low_stock(),
        lambda reader: reader.order("o"),
        lambda reader: reader.cart("k"),
    ]


def _cache_errors() -> float:
    return float(metrics.CACHE_ERRORS._value.get())  # noqa: SLF001 - prometheus_client has no reader


async def _cached(cache: Cache, product_id: str, available: int) -> bool:
    try:
        found = await cache.stock([product_id])
    except CACHE_ERRORS:
        return False
    return product_id in found and found[product_id].available == available


async def _is(condition: bool) -> bool:  # noqa: FBT001 - the answer itself
    return condition


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait, with a bound, until the condition holds."""
    async with asyncio.timeout(BOUND_SECONDS):
        while not await condition():  # noqa: ASYNC110 - Redis does not call back
            await asyncio.sleep(0.01)
