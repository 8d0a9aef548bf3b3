"""The connection is cut at COMMIT: whether the COMMIT was applied or not, the batch counts once in the end."""

import asyncio

import pytest

from dev.servers.postgres_proxy import Cut, proxied
from engine.execute import execute
from storage.errors import is_unavailable
from storage.save import PartitionProgress
from tests.integration.shop import (
    POLICY,
    T0,
    Shop,
    adjusted,
    created,
    open_shop,
    paid,
    picture,
    problems,
    product,
    task,
)
from workers.sweeper import Sweeper

BATCH = [product("p", 10), created("o", {"p": 3}), adjusted("p", "ADD", 5), paid("early"), paid("o")]
PROGRESS = [PartitionProgress("order.created", 0, 5, T0)]


@pytest.mark.parametrize(("cut", "retried"), [("before", "applied"), ("after", "duplicate")])
async def test_a_batch_cut_at_commit_counts_once(database_url: str, cut: Cut, retried: str) -> None:
    """Cut before COMMIT, nothing was applied; cut after it, the retry finds its ids in the inbox. Both end alike."""
    async with proxied(database_url) as (proxy, url), open_shop(url, 1) as shop:
        proxy.cut_commits(cut)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the next line checks which error it is
            await execute(shop.pool, [task(one) for one in BATCH], POLICY, T0, progress=PROGRESS)
        assert is_unavailable(caught.value), repr(caught.value)
        assert 1 == proxy.cuts_made
        report = await execute(shop.pool, [task(one) for one in BATCH], POLICY, T0, progress=PROGRESS)
        outcomes = [verdict.disposition for verdict in report.verdicts]
    once = ["applied", "applied", "applied", "parked", "applied"]
    assert (once if retried == "applied" else ["duplicate"] * 5) == outcomes
    async with open_shop(database_url, 1) as shop:
        assert (12, 0) == await shop.stock("p")
        assert [] == await problems(shop.pool)
        assert [("early",)] == await shop.rows("SELECT order_id FROM parked_events")
        assert [(5,)] == await shop.rows("SELECT next_offset FROM stream_progress")


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_sweep_cut_at_commit_expires_once(database_url: str, cut: Cut) -> None:
    """A sweep that does not know whether it was applied runs again, and each hold expires and is published once."""
    async with proxied(database_url) as (proxy, url), open_shop(url, 2) as shop:
        await shop.apply(product("p", 10), *(created(f"o{n}", {"p": 1}, minutes=-60) for n in range(5)))
        await shop.read_up_to(T0)
        sweeper = Sweeper(shop.pool, POLICY, 1, lambda: T0, lambda _report: None)
        proxy.cut_commits(cut)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - as above
            await sweeper.run_once()
        assert is_unavailable(caught.value), repr(caught.value)
        await sweeper.run_once()
        assert 1 == proxy.cuts_made
        assert (10, 0) == await shop.stock("p")
        assert [(5,)] == await shop.rows("SELECT count(*) FROM outbox WHERE type LIKE '%expired'")


async def test_halves_of_a_bisected_batch_count_once_when_one_is_cut(database_url: str) -> None:
    """A bisected batch whose connection is cut between the halves ends like one that was not cut."""
    events = [product("p", 10), created("o1", {"p": 1}), created("bad", {"p": 1}), created("o2", {"p": 1})]
    async with open_shop(database_url, 1) as direct:
        await direct.pool.execute("ALTER TABLE orders ADD CONSTRAINT ck_test CHECK (order_id <> 'bad')")
        async with proxied(database_url) as (proxy, url), open_shop(url, 1) as shop:
            proxy.cut_commits("after")
            with pytest.raises(Exception) as caught:  # noqa: PT011 - as above
                await shop.apply(*events)
            assert is_unavailable(caught.value), repr(caught.value)
            await shop.apply(*events)
        assert (10, 2) == await direct.stock("p")
        assert [("created-bad",)] == await direct.rows("SELECT event_id FROM dead_letters")


async def test_cuts_at_random_over_a_whole_stream_lose_and_repeat_nothing(database_url: str) -> None:
    """Every second batch is cut, in turn before and after COMMIT, and retried as the consumer does."""
    stream = [[created(f"o{n}", {"p": 1}), paid(f"o{n}", minutes=1)] for n in range(12)]
    async with proxied(database_url) as (proxy, url), open_shop(url, 1) as shop:
        await shop.apply(product("p", 100))
        for number, batch in enumerate(stream):
            cuts: dict[int, Cut] = {0: "before", 2: "after"}
            if number % 4 in cuts:
                proxy.cut_commits(cuts[number % 4])
            await _until_applied(shop, batch)
        found = await picture(shop.pool)
    assert 6 == proxy.cuts_made
    assert [("p", 88, 0)] == [row[:3] for row in found["inventory"]]
    assert 25 == len(found["inbox"])


async def _until_applied(shop: Shop, batch: list[dict[str, object]]) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await shop.apply(*batch)
            except Exception as error:
                if not is_unavailable(error):
                    raise
            else:
                return
