"""Requests: what is refused to a caller that waits for its answer, before the command itself is decided.

An event may come before its order and then waits; a request is answered now, so what it names must exist. A user
reaches only its own carts and orders: those of others do not exist for it.
"""

import dataclasses
from typing import assert_never

from domain.commands import (
    CancelOrder,
    CausedCommand,
    CreateOrder,
    ExtendCart,
    PayOrder,
    ReleaseCart,
    Request,
    UpdateCart,
)
from domain.model import Decision, Disposition, Order, OrderStatus, Reason, State

# Given to callers that wait for the answer, and so never published.
REQUEST_REASONS = frozenset((Reason.UNKNOWN_ORDER, Reason.UNKNOWN_CART, Reason.ORDER_PAID, Reason.ADJUSTMENT_REFUSED))


def refuse_request(state: State, request: Request) -> Decision | None:  # noqa: PLR0911 - one branch a command
    """Return the refusal of a request, or None where its command may be decided."""
    command, owner = request.command, request.owner
    match command:
        case UpdateCart(cart_id=cart_id, user_id=user_id):
            return _refuse_cart(state, cart_id, owner, user_id)
        case ExtendCart(cart_id=cart_id) | ReleaseCart(cart_id=cart_id):
            return _refuse_cart(state, cart_id, owner, None)
        case CreateOrder():
            known = state.orders.get(command.order_id)
            if _is_hidden(known, owner):
                return _refused(Reason.UNKNOWN_ORDER)
            if command.cart_id is None or (known is not None and known.status is not OrderStatus.PENDING):
                return None
            return _refuse_cart(state, command.cart_id, owner, command.user_id)
        case PayOrder():
            return _refuse_payment(state.orders.get(command.order_id), owner)
        case CancelOrder():
            return _refuse_cancellation(state.orders.get(command.order_id), owner)
        case _:
            assert_never(command)


def command_of(state: State, request: Request) -> CausedCommand:
    """Return the request's command; a cart stays its user's where the caller names none."""
    command = request.command
    if isinstance(command, UpdateCart) and command.user_id is None:
        cart = state.carts.get(command.cart_id)
        return command if cart is None else dataclasses.replace(command, user_id=cart.user_id)
    return command


def _refuse_cart(state: State, cart_id: str, owner: str | None, user_id: str | None) -> Decision | None:
    """Refuse a cart of another user than the caller, or than the one that the caller acts for."""
    cart = state.carts.get(cart_id)
    if cart is None:
        return None
    if owner is not None:
        return _refused(Reason.UNKNOWN_CART) if cart.user_id != owner else None
    differs = user_id is not None and cart.user_id is not None and cart.user_id != user_id
    return _refused(Reason.UNKNOWN_CART) if differs else None


def _refuse_payment(order: Order | None, owner: str | None) -> Decision | None:
    """Refuse what is not reserved: a caller that is told so has taken no money yet, so nothing is published."""
    if order is None or order.status is OrderStatus.PENDING or _is_hidden(order, owner):
        return _refused(Reason.UNKNOWN_ORDER)
    if order.paid:
        return None
    match order.status:
        case OrderStatus.REJECTED:
            return _refused(Reason.ORDER_REJECTED)
        case OrderStatus.EXPIRED:
            return _refused(Reason.RESERVATION_EXPIRED)
        case OrderStatus.RELEASED | OrderStatus.RESTOCKED:
            return _refused(Reason.ORDER_CANCELLED)
        case _:
            return None


def _refuse_cancellation(order: Order | None, owner: str | None) -> Decision | None:
    """Refuse an order that does not exist, and to a user the cancellation of one that is paid: that is a refund."""
    if order is None or order.status is OrderStatus.PENDING or _is_hidden(order, owner):
        return _refused(Reason.UNKNOWN_ORDER)
    if owner is not None and order.status is OrderStatus.DEDUCTED:
        return _refused(Reason.ORDER_PAID)
    return None


def _is_hidden(order: Order | None, owner: str | None) -> bool:
    """Say whether the order is somebody else's; one that only waits for itself is nobody's yet."""
    return (
        order is not None and owner is not None and order.status is not OrderStatus.PENDING and order.user_id != owner
    )


def _refused(reason: Reason) -> Decision:
    return Decision(Disposition.REFUSED, reason)
