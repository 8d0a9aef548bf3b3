"""Workers against each other on one database: every claim about concurrency has its race here.

A racer is a connection and a transaction of its own, as another process' would be; one test starts real processes.
Each test proves that its race took place: every contender wins at least once, or one waited for another's lock.
"""

import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from engine.execute import execute
from storage.save import PartitionProgress
from tests.integration.racing import contended, until_each_wins
from tests.integration.shop import (
    POLICY,
    T0,
    Published,
    Shop,
    adjusted,
    cancelled,
    cart,
    created,
    open_shop,
    paid,
    problems,
    product,
    refunded,
    task,
)
from workers.sweeper import Sweeper

RACERS = 20
_REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop]:
    """A shop with a connection for every racer, opened before the start."""
    async with open_shop(database_url, RACERS + 1) as opened:
        await asyncio.gather(*(opened.pool.execute("SELECT pg_sleep(0.05)") for _ in range(RACERS + 1)))
        yield opened
        assert [] == await problems(opened.pool)


async def _race(shop: Shop, *entries: list[Published]) -> list[list[str]]:
    """Let every entry be applied by a racer of its own, all at once; returns what became of each.

    Fails unless one of them waited for another's lock.
    """
    start = asyncio.Barrier(len(entries))

    async def run(events: list[Published]) -> list[str]:
        tasks = [task(one) for one in events]
        await start.wait()
        return [verdict.disposition for verdict in (await execute(shop.pool, tasks, POLICY, T0)).verdicts]

    async with contended(shop.pool):
        return await asyncio.gather(*(run(events) for events in entries))


async def test_twenty_buyers_of_one_unit_make_one_winner(shop: Shop) -> None:
    """The last unit is sold once."""
    await shop.apply(product("p", 1))
    outcomes = await _race(shop, *([created(f"o{number}", {"p": 1})] for number in range(RACERS)))
    assert Counter({"refused": RACERS - 1, "applied": 1}) == Counter(outcome for one in outcomes for outcome in one)
    assert (1, 1) == await shop.stock("p")
    assert [("low_stock",)] == await shop.rows(
        "SELECT substr(type, 11) FROM outbox WHERE aggregatetype LIKE '%low_stock'"
    )


async def test_the_same_event_in_twenty_workers_counts_once(shop: Shop) -> None:
    """A zombie and its successors apply the same event; the inbox lets one of them."""
    await shop.apply(product("p", 10))
    outcomes = await _race(shop, *([adjusted("p", "ADD", 5)] for _ in range(RACERS)))
    assert Counter({"duplicate": RACERS - 1, "applied": 1}) == Counter(outcome for one in outcomes for outcome in one)
    assert (15, 0) == await shop.stock("p")


async def test_an_orders_events_in_three_workers_end_alike(shop: Shop) -> None:
    """Creation, payment and cancellation of an order at once: in any order nothing is held and nothing is gone."""
    await shop.apply(product("p", 100))

    async def last_word(number: int) -> str:
        assert (100, 0) == await shop.stock("p")
        return {"released": "cancellation", "restocked": "payment"}[await shop.status(f"o{number}") or ""]

    async def create_and_cancel(number: int) -> None:
        await asyncio.gather(
            shop.apply(created(f"o{number}", {"p": 2})),
            shop.apply(cancelled(f"o{number}")),
        )

    await until_each_wins(
        shop.pool,
        {"payment": lambda number: shop.apply(paid(f"o{number}")), "cancellation": create_and_cancel},
        last_word,
    )
    assert [] == await shop.rows("SELECT event_id FROM parked_events")
    assert [] == await shop.rows("SELECT event_id FROM inbox WHERE outcome = 'parked'")


async def test_creation_and_payment_at_once_always_deduct(shop: Shop) -> None:
    """Whichever of the two commits first, the order ends deducted."""
    await shop.apply(product("p", 100))
    outcomes: dict[int, list[str]] = {}

    async def pay(number: int) -> None:
        outcomes[number] = await shop.apply(paid(f"o{number}"))

    async def first(number: int) -> str:
        assert "deducted" == await shop.status(f"o{number}")
        assert (99 - number, 0) == await shop.stock("p")
        return {"parked": "payment", "applied": "creation"}[outcomes[number][0]]

    await until_each_wins(
        shop.pool, {"creation": lambda number: shop.apply(created(f"o{number}", {"p": 1})), "payment": pay}, first
    )


async def test_early_facts_at_once_all_wait(shop: Shop) -> None:
    """Facts about an order that is known by an early one only, each in another worker: none overwrites another."""
    names = [f"o{number}" for number in range(6)]
    await shop.apply(product("p", 100))
    await shop.apply(*(cancelled(name, lines={"p": 1}) | {"id": f"first-{name}"} for name in names))
    facts = [
        [fact]
        for name in names
        for fact in (paid(name), refunded(name, {"p": 1}), cancelled(name, lines={"p": 2}) | {"id": f"second-{name}"})
    ]
    await _race(shop, *facts)
    assert [(4 * len(names),)] == await shop.rows("SELECT count(*) FROM parked_events")
    await shop.apply(*(created(name, {"p": 9}) for name in names))
    # Nine ordered, three cancelled; the unit that was refunded may be one of these, so it is not given up again.
    assert (100 - 6 * len(names), 0) == await shop.stock("p")
    assert [] == await shop.rows("SELECT event_id FROM parked_events")


async def test_sweeper_against_payment(shop: Shop) -> None:
    """A due hold is either paid or expired first; both ends are whole."""
    await shop.apply(product("p", 1000))
    await shop.read_up_to(T0)
    sweeper = Sweeper(shop.pool, POLICY, 1, lambda: T0, lambda _report: None)
    swept: dict[int, int] = {}

    async def sweep(number: int) -> None:
        swept[number] = (await sweeper.run_once()).expired

    async def first(number: int) -> str:
        # A payment after the expiry reserves again and deducts: there is enough.
        assert "deducted" == await shop.status(f"o{number}")
        assert (999 - number, 0) == await shop.stock("p")
        expired = "SELECT count(*) FROM outbox WHERE type LIKE '%expired' AND aggregateid = "
        assert [(swept[number],)] == await shop.rows(f"{expired}'o{number}'")
        return "sweeper" if swept[number] else "payment"

    await until_each_wins(
        shop.pool,
        {"sweeper": sweep, "payment": lambda number: shop.apply(paid(f"o{number}"))},
        first,
        prepare=lambda number: shop.apply(created(f"o{number}", {"p": 1}, minutes=-60)),
    )


async def test_sweepers_side_by_side_expire_each_hold_once(shop: Shop) -> None:
    """Several sweepers at once expire every due hold, each once."""
    await shop.apply(product("p", 1000))
    await shop.read_up_to(T0)
    sweepers = {name: Sweeper(shop.pool, POLICY, 1, lambda: T0, lambda _report: None) for name in ("a", "b", "c")}
    swept: dict[str, int] = {}

    async def make_due(number: int) -> None:
        orders = [created(f"o{number}-{n}", {"p": 1}, minutes=-60) for n in range(30)]
        await shop.apply(*orders, *(cart(f"c{number}-{n}", {"p": 1}, minutes=-60) for n in range(30)))

    async def most(number: int) -> str:
        assert 60 == sum(swept.values())
        assert (1000, 0) == await shop.stock("p")
        total = "SELECT count(*), count(DISTINCT id) FROM outbox WHERE type LIKE '%expired'"
        assert [(60 * (number + 1),) * 2] == await shop.rows(total)
        return max(swept, key=lambda name: swept[name])

    def contender(name: str) -> Callable[[int], Awaitable[None]]:
        async def sweep(number: int) -> None:
            del number
            swept[name] = (await sweepers[name].run_once()).expired

        return sweep

    await until_each_wins(shop.pool, {name: contender(name) for name in sweepers}, most, make_due)


async def test_adjustment_against_reservation(shop: Shop) -> None:
    """Stock is taken away and reserved at once: one of the two is refused, never both granted."""
    outcomes: dict[str, list[str]] = {}

    async def subtract(number: int) -> None:
        outcomes["adjustment"] = await shop.apply(adjusted(f"p{number}", "SUBTRACT", 5, f"s{number}"))

    async def reserve(number: int) -> None:
        outcomes["reservation"] = await shop.apply(created(f"o{number}", {f"p{number}": 5}))

    async def granted(_number: int) -> str:
        assert [["applied"], ["refused"]] == sorted(outcomes.values())
        return next(name for name, outcome in outcomes.items() if outcome == ["applied"])

    await until_each_wins(
        shop.pool,
        {"adjustment": subtract, "reservation": reserve},
        granted,
        prepare=lambda number: shop.apply(product(f"p{number}", 5)),
    )


async def test_products_wanted_in_opposite_orders_do_not_deadlock(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Locks are taken in one order whatever the order of the lines, so nobody runs into a deadlock."""
    caplog.set_level("DEBUG", "engine.execute")
    names = [f"p{number}" for number in range(8)]
    await shop.apply(*(product(name, 10_000) for name in names))
    for turn in range(5):
        orders = itertools.cycle((names, names[::-1], names[::2] + names[1::2]))
        entries = [
            [created(f"o{turn}-{number}-{part}", dict.fromkeys(next(orders), 1)) for part in range(3)]
            for number in range(RACERS)
        ]
        await _race(shop, *entries)
    assert (10_000, 5 * RACERS * 3) == await shop.stock("p0")
    assert "Deadlock" not in caplog.text


async def test_carts_and_orders_across_each_other_do_not_deadlock(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Batches that touch the same carts, orders and products crosswise all come through."""
    caplog.set_level("DEBUG", "engine.execute")
    await shop.apply(product("p", 10_000), product("q", 10_000))
    numbers = range(24)
    await shop.apply(*(cart(f"c{n}", {"p": 1, "q": 1}) for n in numbers))
    forth = [created(f"o{n}", {"p": 1}, minutes=1, cart_id=f"c{n}") for n in numbers]
    await _race(shop, forth, forth[::-1])
    for turn in range(6):
        mixed = [cart(f"c{n}", {"q": 2}, minutes=2 + turn) for n in numbers]
        await _race(shop, *(one for _ in range(5) for one in (mixed, mixed[::-1])))
    pay = [paid(f"o{n}", minutes=3) for n in numbers]
    await _race(shop, pay, pay[::-1], pay[12:] + pay[:12])
    assert {"deducted"} == {await shop.status(f"o{n}") for n in numbers}
    assert (9976, 0) == await shop.stock("p")
    assert (10_000, 48) == await shop.stock("q")
    assert "Deadlock" not in caplog.text


@pytest.mark.parametrize("what", ["product", "order", "cart"])
async def test_what_is_made_at_once_is_made_once(shop: Shop, what: str) -> None:
    """The same product, order or cart from twenty different events at once exists once, and its stock is right."""
    await shop.apply(product("p", 100))
    one = {
        "product": product("new", 7),
        "order": created("o", {"p": 3}),
        "cart": cart("c", {"p": 3}, version=1),
    }[what]
    await _race(shop, *([one | {"id": f"{number}"}] for number in range(RACERS)))
    expected = {"product": (100, 0), "order": (100, 3), "cart": (100, 3)}[what]
    assert expected == await shop.stock("p")
    if what == "product":
        assert (7, 0) == await shop.stock("new")
    assert [(1,)] == await shop.rows("SELECT count(*) FROM inbox WHERE outcome = 'applied' AND event_id ~ '^[0-9]+$'")


async def test_the_streams_clock_is_written_by_many_at_once(shop: Shop) -> None:
    """Workers that register all partitions at the same time wait for each other and the furthest counts."""
    rows = [
        [PartitionProgress("t", number, racer, T0 + timedelta(racer)) for number in range(30)]
        for racer in range(RACERS)
    ]
    async with contended(shop.pool):
        await asyncio.gather(*(execute(shop.pool, [], POLICY, T0, progress=one) for one in rows))
    furthest = (RACERS - 1, T0 + timedelta(RACERS - 1))
    found = await shop.rows("SELECT next_offset, watermark FROM stream_progress WHERE topic = 't'")
    assert [furthest] * 30 == found


async def test_processes_that_fight_for_few_units_sell_each_once(shop: Shop, database_url: str) -> None:
    """Three processes that read the same orders in different orders sell what there is, and no unit twice."""
    await shop.apply(product("p", 50), product("q", 20))
    program = f"""
import asyncio, random, sys
from tests.integration.shop import created, open_shop, paid
async def main():
    async with open_shop({database_url!r}) as shop:
        numbers = list(range(60))
        random.shuffle(numbers)
        judged = 0
        print("ready", flush=True)
        sys.stdin.readline()
        while numbers:
            batch, numbers = numbers[:7], numbers[7:]
            outcomes = await shop.apply(*(created(f"o{{n}}", {{"p": 1, "q": n % 2 + 1}}) for n in batch))
            judged += sum(outcome != "duplicate" for outcome in outcomes)
            await shop.apply(*(paid(f"o{{n}}") for n in batch))
        print(judged)
asyncio.run(main())
"""
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            cwd=_REPOSITORY,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]
    async with asyncio.timeout(60):
        for racer in racers:
            assert racer.stdout is not None
            assert b"ready\n" == await racer.stdout.readline()
        judged = [
            int((await output)[0]) for output in [asyncio.create_task(racer.communicate(b"go\n")) for racer in racers]
        ]
    assert [0, 0, 0] == [racer.returncode for racer in racers]
    # Each process judged orders before the others did, and together they judged each once.
    assert min(judged) > 0
    assert 60 == sum(judged)
    sold = await shop.rows(
        "SELECT sum((l.value ->> 4)::int) FROM orders, json_each(lines) l WHERE status = 'deducted' AND l.key = 'q'"
    )
    on_hand, reserved = await shop.stock("q")
    assert 0 == reserved
    assert [(20 - on_hand,)] == sold
    assert on_hand <= 1
    assert [(60,)] == await shop.rows("SELECT count(*) FROM orders WHERE status IN ('deducted', 'rejected')")
