"""The cache never replaces a newer value with an older one, whoever writes."""

import asyncio
import itertools
import random
from datetime import timedelta
from typing import Any

import pytest

from domain.model import CartStatus, OrderStatus
from storage.cache import LOW_STOCK_TTL, STOCK_TTL, Batch, Cache
from tests.integration.caching import NOW, level, reservation

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
