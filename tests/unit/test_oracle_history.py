"""The history checker accepts every possible outcome of competing orders, and reports each kind of damage."""

import ast
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dev import oracle
from dev.oracle.history import check
from dev.oracle.observations import Observed, Row
from domain.commands import ExpireCart, ExpireOrder
from domain.model import BackInStock, Disposition, LedgerEntry, Outcome, ReservationOutcome, StockAlert, StockStatus
from tests.unit.domain_cases import (
    Books,
    Event,
    adjusted,
    at,
    cancelled,
    cart,
    created,
    paid,
    product,
    refunded,
)

PRODUCTS = ("a", "b")
lines = st.dictionaries(st.sampled_from((*PRODUCTS, "unheard-of")), st.integers(1, 4), min_size=1, max_size=2)


def observe(events: list[Event], expire_at: int | None = None) -> Observed:
    """Run the events through the rules, each identity once, and show what a reader of the tables would see."""
    books = Books()
    refused: dict[str, str | None] = {}
    seen: set[str] = set()
    for published in events:
        if published["id"] not in seen:
            seen.add(published["id"])
            decision = books.take(published)
            if decision.disposition is Disposition.REFUSED:
                refused[published["id"]] = decision.reason
    if expire_at is not None:
        for order_id in list(books.state.orders):
            books.obey(ExpireOrder(order_id, at(expire_at)))
        for cart_id in list(books.state.carts):
            books.obey(ExpireCart(cart_id, at(expire_at)))
    return Observed(
        stock={p.product_id: (p.on_hand, p.reserved) for p in books.state.products.values()},
        ledger=[_row(entry) for entry in books.entries],
        orders={order.order_id: order.status for order in books.state.orders.values()},
        holds={found.cart_id: found.held for found in books.state.carts.values()},
        outgoing=[_body(outcome) for outcome in books.outcomes],
        refused=refused,
    )


def _row(entry: LedgerEntry) -> Row:
    return {**entry._asdict(), "event_id": entry.cause.event_id}


def _body(outcome: Outcome) -> Row:
    cause = outcome.cause.event_id
    if not isinstance(outcome, ReservationOutcome):
        found = outcome.product
        severity = outcome.severity if isinstance(outcome, StockAlert) else found.status
        if isinstance(outcome, BackInStock):
            type_ = "inventory.back_in_stock"
        else:
            type_ = "inventory.stock_recovered" if severity is StockStatus.OK else "inventory.low_stock"
        return {
            "type": type_,
            "product_id": found.product_id,
            "severity": severity,
            "on_hand": found.on_hand,
            "reserved": found.reserved,
            "threshold": found.threshold,
            "caused_by": cause,
        }
    moved: list[dict[str, Any]] = [{"product_id": p, "quantity": n} for p, n in outcome.lines.items()]
    body: dict[str, Any] = {"type": f"inventory.reservation.{outcome.kind}", "caused_by": cause, "lines": moved}
    if outcome.reason is not None:
        body |= {"reason": outcome.reason, "lines": [shortage._asdict() for shortage in outcome.shortages]}
    return body | {f"{outcome.reference_type.lower()}_id": outcome.reference_id}


@st.composite
def days(draw: st.DrawFn) -> list[Event]:
    """Draw the events of a few orders and carts that compete for little stock, in any order and with repeats."""
    events: list[Event] = [product(p, draw(st.integers(0, 8)), draw(st.integers(0, 3))) for p in PRODUCTS]
    for number in range(draw(st.integers(1, 4))):
        order = f"o{number}"
        cart_id = draw(st.sampled_from((None, "c0", "c1")))
        events.append(created(draw(lines), order, cart_id, minutes=10 + number))
        if draw(st.booleans()):
            events.append(paid(order))
        if draw(st.booleans()):
            events.append(cancelled(order=order))
        if draw(st.booleans()):
            events.append(cancelled(draw(lines), order, "part"))
        if draw(st.booleans()):
            events.append(refunded(draw(lines), order=order, restock=draw(st.booleans())))
    events += [
        cart(draw(st.just({}) | lines), 5 + number * 3, cart_id=draw(st.sampled_from(("c0", "c1"))))
        for number in range(draw(st.integers(0, 4)))
    ]
    for number in range(draw(st.integers(0, 2))):
        change = draw(st.sampled_from(("ADD", "SUBTRACT", "SET", None)))
        quantity = None if change is None else draw(st.integers(1, 6))
        threshold = draw(st.integers(0, 5)) if change is None else draw(st.none() | st.integers(0, 5))
        events.append(
            adjusted(draw(st.sampled_from(PRODUCTS)), change, quantity, low_stock_threshold=threshold, n=number)
        )
    repeats = draw(st.lists(st.sampled_from(events), max_size=3))
    return draw(st.permutations(events + repeats))


@settings(max_examples=100)
@given(day=days(), expire_at=st.none() | st.just(600), data=st.data())
def test_whatever_the_rules_do_in_any_order_is_allowed(
    day: list[Event], expire_at: int | None, data: st.DataObject
) -> None:
    """The checker, which does not know the order of events, finds one that explains what the rules did."""
    assert [] == check(data.draw(st.permutations(day)), observe(day, expire_at))


# --- the checker fails --------------------------------------------------------------------------

DAY = [
    product("p", 10, 3),
    product("q", 10, 3),
    cart({"q": 8}, 1),
    created({"p": 4}, "o1", minutes=2),
    created({"p": 4}, "o2", minutes=3),
    created({"p": 4}, "o3", minutes=4),
    paid("o1"),
    cancelled(order="o2"),
    paid("o3"),
    refunded({"p": 1}, order="o1"),
    adjusted("q", "ADD", 7),
    product("r", 2, 0),
    created({"r": 2}, "o4", minutes=5),
    cancelled(order="o4"),
]

Damage = Callable[[Observed], Observed]


def _without(name: str, wanted: Callable[[Row], bool]) -> Damage:
    return lambda seen: _with(seen, name, [row for row in getattr(seen, name) if not wanted(row)])


def _twice(name: str, wanted: Callable[[Row], bool]) -> Damage:
    return lambda seen: _with(
        seen, name, [copy for row in getattr(seen, name) for copy in ([row, row] if wanted(row) else [row])]
    )


def _changed(name: str, wanted: Callable[[Row], bool], **values: Any) -> Damage:
    return lambda seen: _with(seen, name, [{**row, **values} if wanted(row) else row for row in getattr(seen, name)])


def _with(seen: Observed, name: str, rows: list[Row]) -> Observed:
    return replace(seen, ledger=rows) if name == "ledger" else replace(seen, outgoing=rows)


def _is(**values: Any) -> Callable[[Row], bool]:
    return lambda row: all(row.get(name) == value for name, value in values.items())


def _pay_twice(seen: Observed) -> Observed:
    """Deduct o1's units a second time, with a ledger that adds up."""
    on_hand, reserved = seen.stock["p"]
    last = max(row["sequence"] for row in seen.ledger if row["product_id"] == "p")
    again = {
        "product_id": "p",
        "sequence": last + 1,
        "type": "OUT",
        "quantity": 4,
        "on_hand_before": on_hand,
        "on_hand_after": on_hand - 4,
        "reserved_before": reserved,
        "reserved_after": reserved,
        "reference_type": "ORDER",
        "reference_id": "o1",
        "event_id": "paid-o1",
    }
    return replace(seen, ledger=[*seen.ledger, again], stock={**seen.stock, "p": (on_hand - 4, reserved)})


def _oversell(seen: Observed) -> Observed:
    """Let the last entry leave less than nothing on hand."""
    rows = [dict(row) for row in seen.ledger]
    last = max((row for row in rows if row["product_id"] == "p"), key=lambda row: int(row["sequence"]))
    last["on_hand_after"] = -1
    return replace(seen, ledger=rows)


BACK_IN_STOCK = _is(type="inventory.back_in_stock")
LOW_ALERT = _is(type="inventory.low_stock", product_id="p")

DAMAGES: dict[str, tuple[Damage, str]] = {
    "an entry is lost": (_without("ledger", _is(event_id="paid-o1")), "ledger"),
    "an entry is there twice": (_twice("ledger", _is(event_id="paid-o1")), "ledger"),
    "an entry's quantity is wrong": (_changed("ledger", _is(event_id="paid-o1"), quantity=3), "ledger"),
    "stock and ledger disagree": (lambda seen: replace(seen, stock={**seen.stock, "p": (10, 0)}), "ledger"),
    "stock is negative": (_oversell, "oversold"),
    "a payment is applied twice": (_pay_twice, "order"),
    "a product is lost": (lambda seen: replace(seen, stock={"p": seen.stock["p"]}), "lost"),
    "an outcome is lost": (_without("outgoing", _is(caused_by="paid-o1")), "order"),
    "an outcome is published twice": (_twice("outgoing", _is(caused_by="paid-o1", order_id="o1")), "order"),
    "an outcome is another": (
        _changed("outgoing", _is(caused_by="created-o1", order_id="o1"), type="inventory.reservation.deducted"),
        "order",
    ),
    "a status is wrong": (lambda seen: replace(seen, orders={**seen.orders, "o2": "reserved"}), "order"),
    "an order is gone": (lambda seen: replace(seen, orders={"o1": "deducted"}), "order"),
    "an alert is lost": (_without("outgoing", LOW_ALERT), "low_stock_missing"),
    "an alert is published twice": (_twice("outgoing", LOW_ALERT), "low_stock_repeated"),
    "an alert names the wrong cause": (_changed("outgoing", LOW_ALERT, caused_by="paid-o3"), "low_stock_order"),
    "a recovery is lost": (
        _without("outgoing", _is(type="inventory.stock_recovered", product_id="q")),
        "low_stock_missing",
    ),
    "a return to stock is lost": (_without("outgoing", BACK_IN_STOCK), "low_stock_missing"),
    "a return to stock is published twice": (_twice("outgoing", BACK_IN_STOCK), "low_stock_repeated"),
    "a return to stock names the wrong cause": (
        _changed("outgoing", BACK_IN_STOCK, caused_by="paid-o3"),
        "low_stock_order",
    ),
    "a cart holds too much": (lambda seen: replace(seen, holds={"c": {"q": 9}}), "cart"),
    "a cart's hold is lost": (lambda seen: replace(seen, holds={}), "cart"),
    "an adjustment is lost": (_without("ledger", _is(type="ADJUST")), "lost"),
    "an adjustment is refused and applied": (
        lambda seen: replace(seen, refused={adjusted("q", "ADD", 7)["id"]: "below_reserved"}),
        "double_applied",
    ),
    "an adjustment did something else": (
        _changed("ledger", _is(type="ADJUST"), quantity=6, on_hand_after=16),
        "ledger",
    ),
    "an entry has no event": (_changed("ledger", _is(type="ADJUST"), event_id="nobody"), "unexpected"),
}


@pytest.mark.parametrize(("damage", "kind"), DAMAGES.values(), ids=DAMAGES.keys())
def test_the_checker_reports_each_kind_of_damage(damage: Damage, kind: str) -> None:
    """Each kind of damage is named, and the undamaged observation passes."""
    seen = observe(DAY)
    assert [] == check(DAY, seen)
    assert kind in {violation.kind for violation in check(DAY, damage(seen))}


def test_an_order_refused_for_stock_that_was_there_is_unjustified() -> None:
    """A refusal for lack of stock needs a time at which so little was available."""
    day = [product("p", 10, 0), created({"p": 20}, "o1")]
    seen = observe(day)
    small = [day[0], created({"p": 2}, "o1")]
    body = {**seen.outgoing[0], "lines": [{**seen.outgoing[0]["lines"][0], "requested": 2, "available": 1}]}
    assert ["unjustified"] == [violation.kind for violation in check(small, replace(seen, outgoing=[body]))]


def test_a_dead_lettered_event_leaves_no_trace() -> None:
    """A fact that was dead-lettered because it waited too long counts as never published."""
    day = [product("p", 10, 0), created({"p": 2}, "o1")]
    late = paid("o1")
    assert [] == check([*day, late], replace(observe(day), dead_lettered=[late["id"]]))
    assert ["order"] == [violation.kind for violation in check([*day, late], observe(day))]


# --- the oracle stands alone --------------------------------------------------------------------


@pytest.mark.parametrize("module", sorted(Path(oracle.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_the_oracle_imports_nothing_but_the_standard_library(module: Path) -> None:
    """No test could see a mistake that the oracle shares with the code under test."""
    imported = {
        name.split(".")[0] if not name.startswith("dev.oracle") else "dev.oracle"
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert set() == imported - sys.stdlib_module_names - {"dev.oracle"}
