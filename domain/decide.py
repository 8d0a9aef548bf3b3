"""Decide a command, and fold decisions into the state.

`decide` is a pure function of state, command and policy. A batch calls `step` event by event: where a lack of stock
shaped the decision, `step` expires due holds on the short products, the oldest first and no more than are needed, and
decides again. So a due hold never blocks anybody, even if the sweeper has not reached it yet.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, assert_never

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
from domain.due import DueHolds
from domain.footprint import footprint
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


class Step(NamedTuple):
    """A command's decision, the expiries that came before it, and of what it would have run short without them.

    `short` maps products to the units that were missing.
    """

    decision: Decision
    expiries: Sequence[Decision]
    short: Mapping[str, int]


def step(state: State, command: Command, policy: Policy, due: DueHolds | None) -> Step:
    """Decide `command` and fold it into `state`, after the expiries that it needs.

    As long as the command would run short, the oldest due hold with units of a product that is short expires. `due`
    is kept up to date; None where no due hold is known.
    """
    decision = decide(state, command, policy)
    short = decision.short
    expiries: list[Decision] = []
    if due is not None:
        while decision.short and _expire(state, command, policy, due, decision.short, expiries):
            decision = decide(state, command, policy)
        due.add(decision)
    evolve(state, decision)
    return Step(decision, expiries, short)


def _expire(
    state: State,
    command: Command,
    policy: Policy,
    due: DueHolds,
    short: Mapping[str, int],
    expiries: list[Decision],
) -> bool:
    """Expire due holds, the oldest first, until the missing units are there or none is left; say whether any expired.

    The command's own cart is the last to expire in one round: its units were counted as available to the command.
    """
    before = len(expiries)
    missing = dict(short)
    while oldest := min(
        (hold for product_id in missing if (hold := due.oldest(state, product_id)) is not None), default=None
    ):
        expiry: Expiry = (
            ExpireOrder(oldest.owner_id, due.due_before)
            if oldest.kind == "order"
            else ExpireCart(oldest.owner_id, due.due_before)
        )
        expired = decide(state, expiry, policy)
        if expired.disposition is not Disposition.APPLIED:
            message = f"{oldest} is due and did not expire"
            raise AssertionError(message)
        for product_id, product in expired.products.items():
            if product_id in missing:
                missing[product_id] -= state.products[product_id].reserved - product.reserved
                if missing[product_id] <= 0:
                    del missing[product_id]
        evolve(state, expired)
        expiries.append(expired)
        if oldest.kind == "cart" and oldest.owner_id in footprint(command).carts:
            break
    return len(expiries) > before
