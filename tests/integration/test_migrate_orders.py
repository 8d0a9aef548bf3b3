"""Orders that early versions stored: `inventory migrate` converts them, and today's rules go on with them.

`early_version.sql` is what the code of such a version stored when it applied the histories below, each to a product of
its own with 10 units.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from alembic import command

from domain.lines import cancellable_of, refundable_of, surplus_of
from domain.model import Cause, Fact, FactKind, check_order
from storage import migrate
from storage.audit import audit
from storage.database import Pool, connect
from storage.load import lock_carts, lock_orders
from tests.integration.shop import (
    Published,
    Shop,
    cancelled,
    cart,
    created,
    event,
    items,
    open_shop,
    paid,
    problems,
    product,
)
from tests.integration.test_migrate import alembic_config

EARLY_VERSION = Path(__file__).with_name("early_version.sql").read_text(encoding="utf-8")

Step = Callable[[str], Published]
Units = Mapping[str, int] | int


def _lines(order: str, units: Units) -> Mapping[str, int]:
    return {order: units} if isinstance(units, int) else units


def create(units: Units = 5, **data: Any) -> Step:
    """The order is placed."""
    return lambda order: created(order, _lines(order, units), **data)


def pay() -> Step:
    """The order is paid."""
    return paid


def cancel(units: Units, name: str = "some") -> Step:
    """Some of its units are cancelled."""
    return lambda order: cancelled(order, lines=_lines(order, units)) | {"id": f"cancelled-{name}-{order}"}


def cancel_whole(minutes: float = 2.5) -> Step:
    """The whole order is cancelled."""
    return lambda order: cancelled(order, minutes)


def refund(units: Units, name: str = "r", minutes: float = 3, **data: Any) -> Step:
    """Some of its units are refunded."""

    def build(order: str) -> Published:
        body = {"order_id": order, "refund_id": f"{name}-{order}", "items": items(**_lines(order, units)), **data}
        return event("payment.refunded", f"refunded-{name}-{order}", minutes, **body)

    return build


def keep(units: Units, name: str = "r", minutes: float = 3) -> Step:
    """Some of its units are refunded without restock."""
    return refund(units, name, minutes, restock=False)


class Case(NamedTuple):
    """An order that an early version stored, its line's nine counters now, and what later events do.

    Each of `later` is an event, what becomes of it, and the units of the order's product on hand after it.
    """

    history: Sequence[Step]
    counters: Sequence[int] | None
    later: Sequence[tuple[Step, str, int]]


# Of some orders the hold expired between two events of their history.
CASES = {
    "pending_paid": Case([pay()], None, [(create(), "applied", 5)]),
    "pending_cancelled": Case([cancel_whole()], None, [(create(), "applied", 10)]),
    "pending_cancelled_paid": Case([cancel_whole(), pay()], None, [(create(), "applied", 10)]),
    "pending_lines": Case([cancel(2)], None, [(create(), "applied", 10), (pay(), "applied", 7)]),
    "pending_refund": Case([keep(2)], None, [(create(), "applied", 10), (pay(), "applied", 5)]),
    "reserved": Case([create()], [5, 0, 5, 0, 0, 0, 0, 0, 0], [(pay(), "applied", 5), (refund(5), "applied", 10)]),
    "reserved_from_cart": Case(
        [lambda order: cart("c1", {order: 5}, -1, user_id="ann", version=3), create(cart_id="c1", user_id="ann")],
        [5, 0, 5, 0, 0, 0, 0, 0, 0],
        [(pay(), "applied", 5), (cancel_whole(), "applied", 10)],
    ),
    "reserved_less": Case(
        [create(), cancel(2)], [5, 2, 5, 2, 0, 0, 0, 0, 0], [(pay(), "applied", 7), (cancel(1, "x"), "applied", 8)]
    ),
    "reserved_refund": Case([create(), refund(2)], [5, 0, 5, 0, 0, 0, 0, 0, 0], [(pay(), "applied", 7)]),
    "rejected": Case(
        [create(50), pay(), refund(1)],
        [50, 0, 0, 0, 0, 0, 0, 0, 0],
        [(refund(1, "x"), "refused", 10), (cancel_whole(), "applied", 10)],
    ),
    "rejected_released": Case(
        [create(50), cancel_whole(), pay()], [50, 0, 0, 0, 0, 0, 0, 0, 0], [(refund(1), "refused", 10)]
    ),
    "expired": Case([create()], [5, 0, 5, 5, 0, 0, 0, 0, 0], [(pay(), "applied", 5)]),
    "expired_paid": Case([create(), pay()], [5, 0, 5, 5, 0, 0, 0, 0, 0], [(cancel_whole(), "applied", 10)]),
    "expired_paid_cancelled": Case(
        [create(), pay(), cancel_whole()],
        [5, 5, 5, 5, 0, 0, 0, 0, 0],
        [(refund(5), "applied", 10), (refund(1, "x"), "refused", 10)],
    ),
    "released": Case(
        [create(), cancel_whole()],
        [5, 0, 5, 5, 0, 0, 0, 0, 0],
        [(pay(), "refused", 10), (keep(1), "applied", 9), (refund(4, "x"), "applied", 9)],
    ),
    "released_by_lines": Case([create(), cancel(5)], [5, 5, 5, 5, 0, 0, 0, 0, 0], [(pay(), "refused", 10)]),
    "released_paid": Case(
        [create(), cancel(2), cancel_whole(), pay()],
        [5, 5, 8, 5, 3, 3, 0, 0, 0],
        [(refund(2), "applied", 10), (keep(3, "x"), "applied", 7), (keep(1, "y"), "refused", 7)],
    ),
    "released_paid_early": Case(
        [cancel_whole(), pay(), create()], [5, 5, 5, 0, 5, 5, 0, 0, 0], [(keep(5), "applied", 5)]
    ),
    "released_kept": Case(
        [create(), cancel_whole(), pay(), keep(2)],
        [5, 5, 10, 5, 5, 3, 2, 2, 0],
        [(keep(3, "x"), "applied", 5), (keep(1, "y"), "refused", 5)],
    ),
    "deducted": Case(
        [create(), pay()],
        [5, 0, 5, 0, 5, 0, 0, 0, 0],
        [(cancel(2), "applied", 7), (refund(2), "applied", 7), (refund(1, "x"), "applied", 8)],
    ),
    "deducted_early": Case(
        [cancel(1), pay(), create()],
        [5, 1, 4, 0, 4, 0, 0, 0, 0],
        [(refund(1), "applied", 6), (refund(1, "x"), "applied", 7)],
    ),
    "deducted_late": Case(
        [create(), pay()], [5, 0, 10, 5, 5, 0, 0, 0, 0], [(cancel_whole(), "applied", 10), (refund(5), "applied", 10)]
    ),
    "refunded": Case(
        [create(), pay(), refund(2)],
        [5, 0, 5, 0, 5, 2, 0, 2, 0],
        [(cancel(2), "applied", 7), (refund(3, "x"), "applied", 10), (refund(1, "y"), "refused", 10)],
    ),
    "refunded_kept": Case(
        [create(), pay(), refund(1), keep(2, "kept")],
        [5, 0, 5, 0, 5, 1, 2, 3, 0],
        [(refund(3, "x"), "refused", 6), (cancel_whole(), "applied", 8), (refund(2, "y"), "applied", 8)],
    ),
    "refunded_all": Case(
        [create(), pay(), refund(5)],
        [5, 0, 5, 0, 5, 5, 0, 5, 0],
        [(refund(1, "x"), "refused", 10), (cancel_whole(), "applied", 10)],
    ),
    "cancelled_lines": Case(
        [create(), pay(), cancel(2)],
        [5, 2, 5, 0, 5, 2, 0, 0, 0],
        [(refund(2), "applied", 7), (refund(3, "x"), "applied", 10), (cancel(4, "x"), "refused", 10)],
    ),
    # The old rules put back what a refund named in addition to what had been cancelled before the payment.
    "cancelled_then_refunded": Case(
        [create(), cancel(2), pay(), refund(1)],
        [5, 2, 5, 2, 3, 1, 0, 3, 0],
        [(refund(2, "x"), "applied", 10), (refund(1, "y"), "refused", 10)],
    ),
    "cancelled_refund_refused": Case(
        [create(), pay(), cancel(2), refund(9)],
        [5, 2, 5, 0, 5, 2, 0, 0, 0],
        [(refund(2, "x"), "applied", 7), (refund(1, "y"), "applied", 8)],
    ),
    "cancelled_and_refunded": Case(
        [create(), pay(), cancel(2), refund(1)],
        [5, 3, 5, 0, 5, 3, 0, 1, 0],
        [(refund(2, "x"), "applied", 8), (cancel(2, "x"), "applied", 10), (cancel(1, "y"), "refused", 10)],
    ),
    "two_lines": Case(
        [create({"two_lines": 3, "second": 3}), pay(), cancel({"second": 2}), refund(1)],
        [3, 0, 3, 0, 3, 1, 0, 1, 0],
        [(cancel(1, "x"), "applied", 8), (refund({"second": 2}, "x"), "applied", 8), (refund(2, "y"), "applied", 10)],
    ),
    "restocked": Case([create(), pay(), cancel_whole()], [5, 5, 5, 0, 5, 5, 0, 0, 0], [(refund(5), "applied", 10)]),
    "restocked_refunded": Case(
        [create(), pay(), refund(2), cancel_whole()],
        [5, 5, 5, 0, 5, 5, 0, 2, 0],
        [(keep(3, "x"), "applied", 7), (refund(1, "y"), "refused", 7)],
    ),
    "restocked_lines": Case(
        [create(), pay(), cancel(2), cancel_whole()],
        [5, 5, 5, 0, 5, 5, 0, 0, 0],
        [(refund(2), "applied", 10), (keep(3, "x"), "applied", 7)],
    ),
    "restocked_kept": Case(
        [create(), pay(), keep(1), cancel_whole(4), keep(2, "late", 5)],
        [5, 5, 5, 0, 5, 2, 3, 3, 0],
        [(keep(2, "x"), "applied", 5), (keep(1, "y"), "refused", 5)],
    ),
    "restocked_both": Case(
        [create(), pay(), cancel(1), refund(2), cancel_whole()],
        [5, 5, 5, 0, 5, 5, 0, 2, 0],
        [(refund(3, "x"), "applied", 10), (keep(1, "y"), "refused", 10)],
    ),
}


@pytest.fixture
async def old_shop(blank_database_url: str) -> AsyncIterator[Shop]:
    """A shop of an early version at revision 0006: the tables of today, the orders in their old form."""
    await asyncio.to_thread(migrate.upgrade, blank_database_url, "0006")
    connection = await connect(blank_database_url)
    await connection.execute(EARLY_VERSION)
    await connection.close()
    async with open_shop(blank_database_url) as opened:
        yield opened


@pytest.fixture
async def shop(old_shop: Shop, blank_database_url: str) -> Shop:
    """The same shop, migrated."""
    await asyncio.to_thread(migrate.upgrade, blank_database_url)
    return old_shop


async def test_the_histories_are_those_of_the_stored_orders(old_shop: Shop) -> None:
    """The rows are of the old form: seven counters per line, identities in a list, refund ids by their old name."""
    forms = "SELECT DISTINCT json_array_length(value) FROM orders, json_each(lines)"
    assert [(7,)] == await old_shop.rows(forms)
    assert [("array",)] == await old_shop.rows("SELECT DISTINCT json_typeof(seen) FROM orders WHERE seen IS NOT NULL")
    assert [("r-pending_refund",)] == await old_shop.rows(
        "SELECT waiting -> 0 ->> 'refund_id' FROM orders WHERE order_id = 'pending_refund'"
    )
    assert sorted(CASES) == [row[0] for row in await old_shop.rows("SELECT order_id FROM orders ORDER BY order_id")]


async def test_every_order_has_the_counters_of_today(shop: Shop) -> None:
    """Each loads, its counters are possible, and the audit finds nothing to report."""
    async with shop.pool.acquire() as connection, connection.transaction():
        orders = await lock_orders(connection, CASES)
        carts = await lock_carts(connection, ["c1", "waits"])
    for order in orders.values():
        check_order(order)
    loaded = {order_id: [list(line) for line in order.lines.values()][:1] for order_id, order in orders.items()}
    assert {name: [] if case.counters is None else [case.counters] for name, case in CASES.items()} == loaded
    assert [3, 2, 3, 0, 3, 2, 0, 0, 0] == list(orders["two_lines"].lines["second"])
    assert ["two_lines", "second"] == list(orders["two_lines"].lines)
    assert ["converted", "active"] == [carts[cart_id].status for cart_id in ("c1", "waits")]
    assert [] == await violations(shop.pool)


async def test_identities_and_waiting_facts_are_kept(shop: Shop) -> None:
    """What was judged is known without a digest, in the order of judging; a waiting refund keeps its id."""
    async with shop.pool.acquire() as connection, connection.transaction():
        orders = await lock_orders(connection, CASES)
    judged = {"cancellation:shop:cancelled-some-cancelled_and_refunded": "", "refund:r-cancelled_and_refunded": ""}
    assert list(judged.items()) == list(orders["cancelled_and_refunded"].seen.items())
    at = datetime(2026, 3, 1, 12, 3, tzinfo=UTC)
    cause = Cause("shop", "refunded-r-pending_refund", at)
    fact = Fact(FactKind.REFUNDED, cause, {"pending_refund": 2}, "r-pending_refund", restock=False)
    assert (fact,) == orders["pending_refund"].waiting


async def test_later_events_do_what_the_customer_expects(shop: Shop) -> None:
    """Payments, cancellations and refunds go on: no unit comes back twice, and none that was given up stays away."""
    expected = {name: [step[1:] for step in case.later] for name, case in CASES.items()}
    found = {}
    for name, case in CASES.items():
        found[name] = [((await shop.apply(step(name)))[0], (await shop.stock(name))[0]) for step, _, _ in case.later]
    assert expected == found
    assert (9, 0) == await shop.stock("second")
    assert ([], []) == (await problems(shop.pool), await violations(shop.pool))


@pytest.mark.parametrize("inbox", ["kept", "pruned"])
async def test_events_applied_before_are_duplicates_when_redelivered(shop: Shop, inbox: str) -> None:
    """By their ids, or once the inbox has forgotten them, by what they say; nothing moves. A snapshot is only stale."""
    if inbox == "pruned":
        await shop.pool.execute("DELETE FROM inbox WHERE outcome <> 'parked'")
    stock = await shop.rows("SELECT * FROM inventory ORDER BY product_id")
    events = [step(name) for name, case in CASES.items() for step in case.history]
    events = [published for published in events if published["topic"] != "cart.updated"]
    found = await shop.apply(*events)
    assert {} == {
        published["id"]: became for published, became in zip(events, found, strict=True) if became != "duplicate"
    }
    assert stock == await shop.rows("SELECT * FROM inventory ORDER BY product_id")
    assert [] == await shop.rows("SELECT * FROM dead_letters")


async def test_as_much_can_be_cancelled_and_refunded_as_before(old_shop: Shop, blank_database_url: str) -> None:
    """No paid order can give up less than under the old rules, and none has units to put back before its next event."""
    query = (
        "SELECT order_id, status, lines FROM orders WHERE paid AND NOT refused AND status IN ('deducted', 'restocked')"
    )
    before = {row[0]: orjson.loads(row[2]) for row in await old_shop.rows(query)}
    await asyncio.to_thread(migrate.upgrade, blank_database_url)
    for order_id, status, lines in await old_shop.rows(query):
        for product_id, line in orjson.loads(lines).items():
            requested, done, _, _, deducted, restocked, kept = before[order_id][product_id]
            outside, undone = deducted - restocked - kept, deducted - (requested - done)
            assert 0 == surplus_of(line), order_id
            assert refundable_of(line) >= (outside if status == "deducted" else undone), order_id
            assert status == "restocked" or cancellable_of(line) >= outside, order_id
    assert len(before) >= 10


async def test_only_orders_of_the_old_form_are_written(old_shop: Shop, blank_database_url: str) -> None:
    """Orders of today's form keep their rows, and another run finds nothing of the old form."""
    await old_shop.apply(product("new", 10), *(step("new") for step in (create(), pay(), cancel(1), refund(2))))
    await old_shop.apply(*(step("new-waits") for step in (pay(), refund(1))))
    rows = "SELECT order_id, xmin::text, lines::text, waiting::text, seen::text FROM orders ORDER BY order_id"
    before = [row for row in await old_shop.rows(rows) if row[0].startswith("new")]
    await asyncio.to_thread(migrate.upgrade, blank_database_url)
    migrated = await old_shop.rows(rows)
    assert before == [row for row in migrated if row[0].startswith("new")]
    assert 2 == len(before)
    config = alembic_config(blank_database_url)
    await asyncio.to_thread(command.downgrade, config, "0006")
    await asyncio.to_thread(migrate.upgrade, blank_database_url)
    assert migrated == await old_shop.rows(rows)


async def test_an_order_that_newer_code_wrote_once_is_completed(old_shop: Shop, blank_database_url: str) -> None:
    """Newer code wrote nine counters beside a list of identities that it did not look at; its counters stay."""
    counters = [5, 2, 5, 0, 5, 2, 0, 0, 0]
    await old_shop.pool.execute(
        "UPDATE orders SET lines = $1 WHERE order_id = 'refunded'", orjson.dumps({"refunded": counters}).decode()
    )
    await asyncio.to_thread(migrate.upgrade, blank_database_url)
    async with old_shop.pool.acquire() as connection, connection.transaction():
        order = (await lock_orders(connection, ["refunded"]))["refunded"]
    assert (counters, {"refund:r-refunded": ""}) == ([*order.lines["refunded"]], order.seen)


async def violations(pool: Pool) -> list[str]:
    """Return the checks of the audit that found something."""
    async with pool.acquire() as connection:
        result = await audit(connection, datetime(2026, 1, 1, tzinfo=UTC))
    return [check.name for check in result.checks if check.violations]
