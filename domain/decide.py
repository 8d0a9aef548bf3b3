"""Decide a command, and fold decisions into the state.

`decide` is a pure function of state, command and policy. A batch calls `step` event by event: where a lack of stock
shaped the decision, `step` expires the due holds on the short products and decides again. So a due hold never blocks
anybody, even if the sweeper has not reached it yet.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

from domain import carts, stock
from domain.commands import (
    AdjustMany,
    AdjustStock,
    CancelOrder,
    Command,
    CreateOrder,
    CreateProduct,
    ExpireCart,
    ExpireOrder,
    Expiry,
    ExtendCart,
    ForgetFact,
    PayOrder,
    RefundOrder,
    ReleaseCart,
    Request,
    UpdateCart,
)
from domain.model import Decision, Disposition, Policy, State
from domain.orders.cancel import cancel_order
from domain.orders.create import create_order
from domain.orders.expire import expire_order
from domain.orders.pay import pay_order
from domain.orders.refund import refund_order
from domain.orders.waiting import forget_fact
from domain.requests import command_of, refuse_request


def decide(state: State, command: Command, policy: Policy) -> Decision:  # noqa: C901, PLR0911, PLR0912 - one branch a command
    """Return the answer to `command` in `state`. Pure: no argument is modified."""
    match command:
        case UpdateCart():
            return carts.update_cart(state, command, policy)
        case CreateOrder():
            return create_order(state, command, policy)
        case PayOrder():
            return pay_order(state, command, policy)
        case CancelOrder():
            return cancel_order(state, command, policy)
        case RefundOrder():
            return refund_order(state, command, policy)
        case CreateProduct():
            return stock.create_product(state, command, policy)
        case AdjustStock():
            return stock.adjust_stock(state, command, policy)
        case AdjustMany():
            return stock.adjust_many(state, command, policy)
        case ExtendCart():
            return carts.extend_cart(state, command, policy)
        case ReleaseCart():
            return carts.release_cart(state, command, policy)
        case Request():
            refusal = refuse_request(state, command)
            return decide(state, command_of(state, command), policy) if refusal is None else refusal
        case ExpireOrder():
            return expire_order(state, command, policy)
        case ExpireCart():
            return carts.expire_cart(state, command, policy)
        case ForgetFact():
            return forget_fact(state, command, policy)
        case _:
            assert_never(command)


def evolve(state: State, decision: Decision) -> None:
    """Fold a decision's new values into `state`, in place."""
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
    """Decide `command` and fold it into `state`; yields the expiries it needed, then the command's own decision.

    `due` maps a product to the expiries of the due holds on it, in the order in which to try them.
    """
    decision = decide(state, command, policy)
    if decision.short and due:
        expired = False
        for product_id in decision.short:
            for expiry in due.get(product_id, ()):
                if not _holds(state, expiry, product_id):
                    continue
                expiration = decide(state, expiry, policy)
                if expiration.disposition is Disposition.APPLIED:
                    evolve(state, expiration)
                    expired = True
                    yield expiration
        if expired:
            decision = decide(state, command, policy)
    evolve(state, decision)
    yield decision


def _holds(state: State, expiry: Expiry, product_id: str) -> bool:
    """Say whether the hold still includes the product: a cart may have released it since the hold was found due."""
    if isinstance(expiry, ExpireOrder):
        order = state.orders.get(expiry.order_id)
        return order is not None and product_id in order.lines
    cart = state.carts.get(expiry.cart_id)
    return cart is not None and product_id in cart.held
