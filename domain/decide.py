"""The one function that decides, and the one that folds decisions into the state.

`decide` is a pure function of the state and a command. `step` is what a batch runs event by event:
it decides, and where a lack of stock shaped the decision it first expires the holds on the short
products that were due, so that expiry is true when read and not only when swept.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

from domain import carts, orders, stock
from domain.commands import (
    AdjustStock,
    CancelOrder,
    Command,
    CreateOrder,
    CreateProduct,
    ExpireCart,
    ExpireOrder,
    Expiry,
    ForgetFact,
    PayOrder,
    RefundOrder,
    UpdateCart,
)
from domain.model import Decision, Disposition, Policy, State


def decide(state: State, command: Command, policy: Policy) -> Decision:  # noqa: C901, PLR0911 - one branch a command
    """Say what `command` means in `state`. Pure: neither argument changes."""
    match command:
        case UpdateCart():
            return carts.update_cart(state, command, policy)
        case CreateOrder():
            return orders.create_order(state, command, policy)
        case PayOrder():
            return orders.pay_order(state, command, policy)
        case CancelOrder():
            return orders.cancel_order(state, command, policy)
        case RefundOrder():
            return orders.refund_order(state, command, policy)
        case CreateProduct():
            return stock.create_product(state, command, policy)
        case AdjustStock():
            return stock.adjust_stock(state, command, policy)
        case ExpireOrder():
            return orders.expire_order(state, command, policy)
        case ExpireCart():
            return carts.expire_cart(state, command, policy)
        case ForgetFact():
            return orders.forget_fact(state, command, policy)
        case _:
            assert_never(command)


def evolve(state: State, decision: Decision) -> None:
    """Put a decision's new values into `state`, in place."""
    if decision.products:
        state.products.update(decision.products)
    if decision.order is not None:
        state.orders[decision.order.order_id] = decision.order
    if decision.cart is not None:
        state.carts[decision.cart.cart_id] = decision.cart


def step(
    state: State,
    command: Command,
    policy: Policy,
    due: Mapping[str, Sequence[Expiry]],
) -> Iterator[Decision]:
    """Decide `command`, fold it into `state`, and yield every decision on the way; the last is the command's.

    `due` maps a product to the expiries of holds on it that are due.
    """
    decision = decide(state, command, policy)
    if decision.short and due:
        expired = False
        for product_id in decision.short:
            for expiry in due.get(product_id, ()):
                if not _concerns(state, expiry, product_id):
                    continue
                dropped = decide(state, expiry, policy)
                if dropped.disposition is Disposition.APPLIED:
                    evolve(state, dropped)
                    expired = True
                    yield dropped
        if expired:
            decision = decide(state, command, policy)
    evolve(state, decision)
    yield decision


def _concerns(state: State, expiry: Expiry, product_id: str) -> bool:
    """Say whether the hold is on the product now: a cart may have let go of it since it was found to be due."""
    if isinstance(expiry, ExpireOrder):
        order = state.orders.get(expiry.order_id)
        return order is not None and product_id in order.lines
    cart = state.carts.get(expiry.cart_id)
    return cart is not None and product_id in cart.held
