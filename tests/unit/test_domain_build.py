"""Building by position: what `domain.build` makes equals what the constructors make by name."""

from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import lines
from domain.build import new_entry, new_lines, new_order, new_product
from domain.draft import OrderDraft
from domain.lines import Line, cancellable_of, held_of, is_possible, refundable_of, surplus_of, wanted_of
from domain.model import (
    Cause,
    EntryType,
    Fact,
    FactKind,
    LedgerEntry,
    Order,
    OrderStatus,
    Product,
    ReferenceType,
    StockStatus,
)

ids = st.text(min_size=1, max_size=4)
units = st.integers(-(2**40), 2**40)
moments = st.datetimes(timezones=st.just(UTC))
causes = st.builds(Cause, source=ids, event_id=ids, occurred_at=moments, traceparent=st.none() | ids)
products = st.fixed_dictionaries(
    {
        "product_id": ids,
        "on_hand": units,
        "reserved": units,
        "threshold": units,
        "last_alert_status": st.sampled_from(StockStatus),
        "version": units,
        "sequence": units,
    }
)
entries = st.fixed_dictionaries(
    {
        "product_id": ids,
        "sequence": units,
        "type": st.sampled_from(EntryType),
        "quantity": units,
        "on_hand_before": units,
        "on_hand_after": units,
        "reserved_before": units,
        "reserved_after": units,
        "reference_type": st.sampled_from(ReferenceType),
        "reference_id": ids,
        "operator": st.none() | ids,
        "reason": st.none() | ids,
        "cause": causes,
    }
)
COUNTERS = (
    "requested",
    "cancelled",
    "reserved",
    "released",
    "deducted",
    "restocked",
    "not_restocked",
    "refunded",
    "returned",
)
counters = st.fixed_dictionaries(dict.fromkeys(COUNTERS, units))
facts = st.builds(Fact, kind=st.sampled_from(FactKind), cause=causes, business_id=st.none() | ids)
orders = st.fixed_dictionaries(
    {
        "order_id": ids,
        "status": st.sampled_from(OrderStatus),
        "user_id": st.none() | ids,
        "cart_id": st.none() | ids,
        "lines": st.dictionaries(ids, counters.map(lambda named: Line(**named)), max_size=2),
        "paid": st.booleans(),
        "refused": st.booleans(),
        "waiting": st.lists(facts, max_size=2).map(tuple),
        "seen": st.dictionaries(ids, ids, max_size=2),
        "expires_at": st.none() | moments,
        "version": units,
    }
)


def _is_same(expected: NamedTuple, built: NamedTuple) -> None:
    """Hold type and fields against each other: a tuple of another class, or a plain one, would be equal too."""
    assert (type(expected), expected._asdict()) == (type(built), built._asdict())


@given(named=products)
def test_a_product_is_built_as_by_its_constructor(named: dict[str, object]) -> None:
    """Every field of a product stands where its name says."""
    _is_same(Product(**named), new_product(**named))  # type: ignore[arg-type]


@given(named=entries)
def test_an_entry_is_built_as_by_its_constructor(named: dict[str, object]) -> None:
    """Every field of a ledger entry stands where its name says."""
    renamed = {"type_" if name == "type" else name: value for name, value in named.items()}
    _is_same(LedgerEntry(**named), new_entry(**renamed))  # type: ignore[arg-type]


@given(named=orders)
def test_an_order_is_built_as_by_its_constructor(named: dict[str, object]) -> None:
    """Every field of an order stands where its name says."""
    _is_same(Order(**named), new_order(**named))  # type: ignore[arg-type]


@given(named=counters)
def test_a_line_is_built_as_by_its_constructor(named: dict[str, int]) -> None:
    """The counters of an open line become the line's fields in their order."""
    _is_same(Line(**named), new_lines({"p": [named[name] for name in COUNTERS]})["p"])


@settings(max_examples=50)
@given(named=orders)
def test_a_draft_has_the_facts_of_its_order_and_freezes_to_the_next_version(named: dict[str, object]) -> None:
    """A draft takes an order apart by position: each fact has its own name, and comes back unchanged."""
    order = Order(**named)  # type: ignore[arg-type]
    draft = OrderDraft(order, {}, Cause("shop", "e", datetime(2026, 3, 1, tzinfo=UTC)))
    assert {name: getattr(order, name) for name in Order._fields if name not in {"lines", "version"}} == {
        name: getattr(draft, name) for name in Order._fields if name not in {"lines", "version"}
    }
    assert order._replace(version=order.version + 1) == draft.freeze()


@pytest.mark.parametrize("name", COUNTERS)
def test_each_counter_has_the_position_of_its_field(name: str) -> None:
    """A draft counts by position, a line reads by name."""
    assert Line._fields.index(name) == getattr(lines, name.upper())


@given(named=counters)
def test_the_arithmetic_of_a_line_follows_its_fields(named: dict[str, int]) -> None:
    """Wanted, held, cancellable, refundable and surplus units, worked out from the counters by name."""
    line = Line(**named)
    wanted = max(0, line.requested - max(line.cancelled, line.refunded) - line.returned)
    assert (
        wanted,
        line.reserved - line.released - line.deducted,
        line.reserved - line.released - line.deducted,
        line.requested - line.cancelled - line.returned,
        line.requested - line.refunded - line.returned,
        line.deducted - line.restocked - line.not_restocked - wanted,
    ) == (
        wanted_of(line),
        held_of(line),
        line.held,
        cancellable_of(line),
        refundable_of(line),
        surplus_of(line),
    )


@given(named=st.fixed_dictionaries(dict.fromkeys(COUNTERS, st.integers(-1, 3))))
def test_a_line_is_possible_when_nothing_is_given_back_twice(named: dict[str, int]) -> None:
    """No counter is negative; cancelled, released with deducted, and given back stay within what they came from."""
    line = Line(**named)
    expected = (
        min(line) >= 0
        and line.cancelled <= line.requested
        and line.released + line.deducted <= line.reserved
        and line.restocked + line.not_restocked <= line.deducted
        and line.refunded + line.returned <= line.requested
        and line.not_restocked <= line.refunded + line.returned
    )
    assert expected == is_possible(line)
