"""Carts: the hold follows the newest snapshot, and an order takes its cart's hold over."""

from collections.abc import Mapping
from datetime import datetime

from domain.commands import CreateOrder, ExpireCart, UpdateCart
from domain.model import (
    Cart,
    CartStatus,
    Cause,
    Decision,
    Disposition,
    Outcome,
    OutcomeKind,
    Policy,
    Reason,
    ReferenceType,
    ReservationOutcome,
    Shortage,
    State,
)
from domain.movements import Movements


def update_cart(state: State, command: UpdateCart, policy: Policy) -> Decision:
    """Hold what the snapshot asks for, as far as it is there, and renew the whole cart's expiry."""
    known = state.carts.get(command.cart_id)
    if known is not None and _is_stale(known, command):
        return Decision(Disposition.REFUSED, Reason.STALE_VERSION)
    moves = Movements(state.products, command.cause, ReferenceType.CART, command.cart_id)
    held = {} if known is None else dict(known.held)
    surplus = {
        product_id: quantity - wanted
        for product_id, quantity in held.items()
        if quantity > (wanted := command.lines.get(product_id, 0))
    }
    moves.release(surplus)
    for product_id, quantity in surplus.items():
        held[product_id] -= quantity
    taken: dict[str, int] = {}
    shortages: list[Shortage] = []
    for product_id, wanted in command.lines.items():
        missing = wanted - held.get(product_id, 0)
        available = moves.available(product_id)
        if missing > 0 and available > 0:
            taken[product_id] = min(missing, available)
            held[product_id] = held.get(product_id, 0) + taken[product_id]
        if missing > available:
            reason = Reason.INSUFFICIENT_STOCK if product_id in state.products else Reason.UNKNOWN_PRODUCT
            shortages.append(Shortage(product_id, wanted, held.get(product_id, 0), reason))
    moves.reserve(taken)
    cart = Cart(
        cart_id=command.cart_id,
        status=CartStatus.ACTIVE if command.lines else CartStatus.EMPTIED,
        user_id=command.user_id,
        held={product_id: quantity for product_id, quantity in held.items() if quantity},
        snapshot_version=command.version,
        as_of=command.cause.occurred_at,
        converted_at=None if known is None else known.converted_at,
        expires_at=command.cause.occurred_at + policy.cart_ttl if command.lines else None,
        version=1 if known is None else known.version + 1,
    )
    outcomes: list[Outcome] = []
    shortages.sort(key=_is_known)
    if shortages:
        outcomes.append(_outcome(OutcomeKind.CART_SHORTAGE, cart, command.cause, shortages))
    alerts = moves.close()
    return Decision(
        Disposition.APPLIED,
        products=moves.touched,
        cart=cart,
        entries=tuple(moves.entries),
        outcomes=(*outcomes, *alerts),
        short=tuple(shortage.product_id for shortage in shortages if shortage.reason is Reason.INSUFFICIENT_STOCK),
    )


def _is_stale(cart: Cart, command: UpdateCart) -> bool:
    """Say whether something newer than the snapshot was applied: by version where both have one."""
    if cart.converted_at is not None and command.cause.occurred_at <= cart.converted_at:
        return True
    if cart.snapshot_version is not None and command.version is not None:
        return command.version <= cart.snapshot_version
    return cart.as_of is not None and command.cause.occurred_at < cart.as_of


def hold_for_order(cart: Cart | None, at: datetime) -> Mapping[str, int]:
    """Return what a cart holds for an order placed `at`; a snapshot from after it is a new cart's."""
    if cart is None or cart.as_of is None or cart.as_of > at:
        return {}
    return cart.held


def convert_cart(moves: Movements, cart: Cart | None, command: CreateOrder) -> Cart | None:
    """Let go of a cart's hold in favour of its order, and mark it converted at the order's time.

    A cart never heard of is marked too: its late updates then do nothing. A cart that is newer than
    the order keeps what it holds.
    """
    if command.cart_id is None:
        return None
    at = command.cause.occurred_at
    if cart is not None and cart.as_of is not None and cart.as_of > at:
        converted_at = at if cart.converted_at is None else max(cart.converted_at, at)
        return cart._replace(converted_at=converted_at, version=cart.version + 1)
    if cart is not None and cart.held:
        moves.reference_type, moves.reference_id = ReferenceType.CART, command.cart_id
        moves.release(cart.held)
        moves.reference_type, moves.reference_id = ReferenceType.ORDER, command.order_id
    return Cart(
        cart_id=command.cart_id,
        status=CartStatus.CONVERTED,
        user_id=command.user_id if cart is None else cart.user_id,
        held={},
        snapshot_version=None,
        as_of=at,
        converted_at=at,
        expires_at=None,
        version=1 if cart is None else cart.version + 1,
    )


def expire_cart(state: State, command: ExpireCart, _policy: Policy) -> Decision:
    """Drop the hold of a cart that was due before `due_before`; anything else is left alone.

    The cause is the deadline of this version of the cart: two snapshots can have the same deadline.
    """
    cart = state.carts.get(command.cart_id)
    if cart is None or cart.status is not CartStatus.ACTIVE:
        return Decision(Disposition.DUPLICATE)
    due = cart.expires_at
    if due is None or due >= command.due_before:
        return Decision(Disposition.DUPLICATE)
    cause = Cause("inventory-worker", f"expired:cart:{cart.cart_id}:{due.isoformat()}:{cart.version}", due)
    moves = Movements(state.products, cause, ReferenceType.CART, cart.cart_id)
    moves.release(cart.held)
    expired = Cart(
        cart_id=cart.cart_id,
        status=CartStatus.EXPIRED,
        user_id=cart.user_id,
        held={},
        snapshot_version=cart.snapshot_version,
        as_of=cart.as_of,
        converted_at=cart.converted_at,
        expires_at=None,
        version=cart.version + 1,
    )
    outcome = ReservationOutcome(
        OutcomeKind.EXPIRED,
        ReferenceType.CART,
        cart.cart_id,
        cart.user_id,
        cart.held,
        None,
        (),
        cause,
    )
    alerts = moves.close()
    return Decision(
        Disposition.APPLIED,
        products=moves.touched,
        cart=expired,
        entries=tuple(moves.entries),
        outcomes=(outcome, *alerts),
    )


def _is_known(shortage: Shortage) -> bool:
    """Sort unknown products first, as `Reason` has it."""
    return shortage.reason is not Reason.UNKNOWN_PRODUCT


def _outcome(kind: OutcomeKind, cart: Cart, cause: Cause, shortages: list[Shortage]) -> ReservationOutcome:
    return ReservationOutcome(
        kind,
        ReferenceType.CART,
        cart.cart_id,
        cart.user_id,
        cart.held,
        shortages[0].reason,
        tuple(shortages),
        cause,
    )
