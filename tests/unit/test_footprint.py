"""What a command locks: every id that it names, and enough for the rules to decide."""

from dataclasses import fields
from datetime import timedelta
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.commands import (
    AdjustMany,
    AdjustStock,
    CancelOrder,
    Command,
    CreateOrder,
    CreateProduct,
    ExpireCart,
    ExpireOrder,
    ExtendCart,
    ForgetFact,
    PayOrder,
    RefundOrder,
    ReleaseCart,
    Request,
    UpdateCart,
)
from domain.decide import decide, evolve
from domain.footprint import Footprint, footprint, products_of_cart, products_of_order
from domain.lines import Line
from domain.model import Cart, CartStatus, Cause, Fact, FactKind, Operation, Order, Policy, State
from tests.unit.domain_cases import NOON, at

CAUSE = Cause("shop", "e", NOON)
LINES = {"p": 1, "q": 2}

# A command of each class that names all that it can, and what it must lock: orders, carts, products.
COMMANDS: list[tuple[Command, set[str], set[str], set[str]]] = [
    (CreateOrder(CAUSE, "o", LINES, "c", "u"), {"o"}, {"c"}, {"p", "q"}),
    (CreateOrder(CAUSE, "o", LINES), {"o"}, set(), {"p", "q"}),
    (PayOrder(CAUSE, "o"), {"o"}, set(), set()),
    (CancelOrder(CAUSE, "o", LINES, "why"), {"o"}, set(), {"p", "q"}),
    (CancelOrder(CAUSE, "o"), {"o"}, set(), set()),
    (RefundOrder(CAUSE, "o", "r", LINES), {"o"}, set(), {"p", "q"}),
    (UpdateCart(CAUSE, "c", LINES, "u", 1), set(), {"c"}, {"p", "q"}),
    (CreateProduct(CAUSE, "p", 1), set(), set(), {"p"}),
    (AdjustStock(CAUSE, "p", Operation.ADD, 1), set(), set(), {"p"}),
    (AdjustMany(CAUSE, [AdjustStock(CAUSE, "p"), AdjustStock(CAUSE, "q")], True), set(), set(), {"p", "q"}),  # noqa: FBT003
    (ExtendCart(CAUSE, "c", timedelta(hours=1)), set(), {"c"}, set()),
    (ReleaseCart(CAUSE, "c"), set(), {"c"}, set()),
    (Request(CreateOrder(CAUSE, "o", LINES, "c", "u"), "u"), {"o"}, {"c"}, {"p", "q"}),
    (Request(ReleaseCart(CAUSE, "c"), "u"), set(), {"c"}, set()),
    (ExpireOrder("o", NOON), {"o"}, set(), set()),
    (ExpireCart("c", NOON), set(), {"c"}, set()),
    (ForgetFact("o", "shop", "e"), {"o"}, set(), set()),
]

# Fields that name no row. A new field of a command belongs here or into its footprint.
NAMES_NO_ROW = {
    "adjustments",  # commands, which have their own rows in the table
    "all_or_nothing",
    "cancellation_id",
    "cause",
    "command",  # likewise
    "create",
    "due_before",
    "event_id",
    "expected_version",
    "expires_in",
    "initial_quantity",
    "operation",
    "operator",
    "payment_id",
    "owner",
    "partial",
    "quantity",
    "reason",
    "reference_type",
    "refund_id",
    "restock",
    "returned",
    "source",
    "threshold",
    "user_id",
    "version",
}


@pytest.mark.parametrize(("command", "orders", "carts", "products"), COMMANDS, ids=lambda value: type(value).__name__)
def test_a_command_locks_what_it_names(command: Command, orders: set[str], carts: set[str], products: set[str]) -> None:
    """Its order, its cart, and its products."""
    found = footprint(command)
    assert (orders, carts, products) == (set(found.orders), set(found.carts), set(found.products))


def test_every_command_is_in_the_table() -> None:
    """A new command needs its footprint and its row above."""
    assert set(get_args(Command)) == {type(row[0]) for row in COMMANDS}


def test_every_field_is_locked_or_names_no_row() -> None:
    """A new field that names an order, a cart or products cannot be forgotten."""
    for command in (row[0] for row in COMMANDS):
        naming = {each.name for each in fields(command)} - NAMES_NO_ROW
        assert naming <= {"order_id", "cart_id", "product_id", "lines"}, type(command)
        locked = footprint(command)
        for name in naming:
            value = getattr(command, name)
            ids = () if value is None else (value,) if isinstance(value, str) else value
            assert set(ids) <= {*locked.orders, *locked.carts, *locked.products}, (type(command), name)


def test_an_order_names_the_products_of_its_lines_and_of_what_waits_in_it() -> None:
    """A fact that waits may name products that the order itself does not have."""
    waiting = (Fact(FactKind.PAID, CAUSE), Fact(FactKind.CANCELLED, CAUSE, {"r": 1}))
    assert {"p", "r"} == set(products_of_order(Order("o", lines={"p": Line(1)}, waiting=waiting)))


def test_a_cart_names_the_products_that_it_holds() -> None:
    """What it once held is of no account."""
    assert {"p"} == set(products_of_cart(Cart("c", CartStatus.ACTIVE, None, {"p": 1}, None, NOON, None, NOON)))


# --- enough for the rules -----------------------------------------------------------------------

_products = st.sampled_from(("p", "q", "r", "unknown"))
_lines = st.dictionaries(_products, st.integers(1, 4), min_size=1, max_size=2)
_orders = st.sampled_from(("o1", "o2"))
_carts = st.sampled_from(("c1", "c2"))
_causes = st.builds(Cause, st.just("shop"), st.integers(0, 999).map(str), st.integers(0, 60).map(at))
_due = st.integers(0, 120).map(at)
_users = st.sampled_from((None, "ann", "bob"))
_commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(CreateOrder, _causes, _orders, _lines, st.none() | _carts),
    st.builds(PayOrder, _causes, _orders),
    st.builds(CancelOrder, _causes, _orders, st.none() | _lines),
    st.builds(RefundOrder, _causes, _orders, st.sampled_from(("r1", "r2")), _lines, st.booleans()),
    st.builds(UpdateCart, _causes, _carts, st.just({}) | _lines),
    st.builds(CreateProduct, _causes, _products.filter(lambda name: name != "unknown"), st.integers(0, 9)),
    st.builds(AdjustStock, _causes, _products, st.sampled_from(Operation), st.integers(0, 9)),
    st.builds(
        AdjustMany,
        _causes,
        st.lists(
            st.builds(
                AdjustStock,
                _causes,
                _products,
                st.sampled_from(Operation),
                st.integers(0, 9),
                expected_version=st.none() | st.integers(1, 5),
                create=st.booleans(),
            ),
            max_size=3,
        ),
        st.booleans(),
    ),
    st.builds(
        Request,
        st.one_of(
            st.builds(CreateOrder, _causes, _orders, _lines, st.none() | _carts, _users),
            st.builds(PayOrder, _causes, _orders),
            st.builds(CancelOrder, _causes, _orders),
            st.builds(UpdateCart, _causes, _carts, st.just({}) | _lines, _users, partial=st.booleans()),
            st.builds(ExtendCart, _causes, _carts, st.just(timedelta(hours=1))),
            st.builds(ReleaseCart, _causes, _carts),
        ),
        _users,
    ),
    st.builds(ExpireOrder, _orders, _due),
    st.builds(ExpireCart, _carts, _due),
    st.builds(ForgetFact, _orders, st.just("shop"), st.integers(0, 999).map(str)),
)


def _loaded(state: State, named: Footprint) -> State:
    """Return the rows that a batch of one command would lock and load."""
    orders = {key: state.orders[key] for key in named.orders if key in state.orders}
    carts = {key: state.carts[key] for key in named.carts if key in state.carts}
    products = {
        *named.products,
        *(key for order in orders.values() for key in products_of_order(order)),
        *(key for cart in carts.values() for key in products_of_cart(cart)),
    }
    return State({key: state.products[key] for key in products if key in state.products}, orders, carts)


@settings(max_examples=150)
@given(commands=st.lists(_commands, max_size=25))
def test_what_is_locked_is_enough_to_decide(commands: list[Command]) -> None:
    """Decided on the locked rows alone, a command means the same as on all there is, and changes no other row."""
    state, policy = State({}, {}, {}), Policy()
    for name in ("p", "q", "r"):
        evolve(state, decide(state, CreateProduct(CAUSE, name, 6), policy))
    for command in commands:
        named = footprint(command)
        loaded = _loaded(state, named)
        decision = decide(loaded, command, policy)
        assert decide(state, command, policy) == decision
        assert decision.products.keys() <= {*loaded.products, *named.products}
        assert decision.order is None or decision.order.order_id in named.orders
        assert decision.cart is None or decision.cart.cart_id in named.carts
        evolve(state, decision)
