"""Carts: the hold follows the newest snapshot, and an order takes over its cart's hold."""

from collections.abc import Mapping
from datetime import datetime

from domain.commands import CreateOrder, ExpireCart, ExtendCart, ReleaseCart, UpdateCart
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
from domain.movements import Attribution, Movements
from domain.orders.shortages import missing_units


def update_cart(state: State, command: UpdateCart, policy: Policy) -> Decision:
    """Move the hold to match the snapshot, as far as stock is available, and renew the whole cart's deadline."""
    known = state.carts.get(command.cart_id)
    if known is not None and _is_stale(known, command):
        return Decision(Disposition.REFUSED, Reason.STALE_VERSION)
    moves = Movements(state.products)
    attribution = Attribution(command.cause, ReferenceType.CART, command.cart_id)
    held = {} if known is None else dict(known.held)
    surplus = {
        product_id: quantity - wanted
        for product_id, quantity in held.items()
        if quantity > (wanted := command.lines.get(product_id, 0))
    }
    moves.release(surplus, attribution)
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
    shortages.sort(key=_is_known)
    if shortages and not command.partial:
        return Decision(
            Disposition.REFUSED, shortages[0].reason, short=missing_units(shortages), shortages=tuple(shortages)
        )
    moves.reserve(taken, attribution)
    ttl = policy.cart_ttl if command.expires_in is None else command.expires_in
    cart = Cart(
        cart_id=command.cart_id,
        status=CartStatus.ACTIVE if command.lines else CartStatus.EMPTIED,
        user_id=command.user_id,
        held={product_id: quantity for product_id, quantity in held.items() if quantity},
        snapshot_version=command.version,
        as_of=command.cause.occurred_at,
        converted_at=None if known is None else known.converted_at,
        expires_at=command.cause.occurred_at + ttl if command.lines else None,
        version=1 if known is None else known.version + 1,
    )
    outcomes: list[Outcome] = []
    if shortages:
        outcomes.append(_shortage_outcome(cart, command.cause, shortages))
    alerts = moves.close(command.cause)
    return Decision(
        Disposition.APPLIED,
        products=moves.touched,
        cart=cart,
        entries=tuple(moves.entries),
        outcomes=(*outcomes, *alerts),
        short=missing_units(shortages),
        shortages=tuple(shortages),
    )


def extend_cart(state: State, command: ExtendCart, _policy: Policy) -> Decision:
    """Move the deadline of an active cart; a cart that holds nothing any more has none to move."""
    cart = state.carts.get(command.cart_id)
    if cart is None:
        return Decision(Disposition.REFUSED, Reason.UNKNOWN_CART)
    deadline = command.cause.occurred_at + command.expires_in
    if cart.status is not CartStatus.ACTIVE or cart.expires_at is None:
        return Decision(Disposition.REFUSED, Reason.RESERVATION_EXPIRED)
    if cart.expires_at >= deadline:
        return Decision(Disposition.DUPLICATE)
    return Decision(Disposition.APPLIED, cart=cart._replace(expires_at=deadline, version=cart.version + 1))


def release_cart(state: State, command: ReleaseCart, policy: Policy) -> Decision:
    """Empty an active cart; any other holds nothing."""
    cart = state.carts.get(command.cart_id)
    if cart is None:
        return Decision(Disposition.REFUSED, Reason.UNKNOWN_CART)
    if cart.status is not CartStatus.ACTIVE:
        return Decision(Disposition.DUPLICATE)
    return update_cart(state, UpdateCart(command.cause, command.cart_id, {}, cart.user_id), policy)


def _is_stale(cart: Cart, command: UpdateCart) -> bool:
    """Say whether the cart has applied something newer than the snapshot.

    Versions decide where both have one, else times. A conversion outdates every snapshot up to its time.
    """
    if cart.converted_at is not None and command.cause.occurred_at <= cart.converted_at:
        return True
    if cart.snapshot_version is not None and command.version is not None:
        return command.version <= cart.snapshot_version
    return cart.as_of is not None and command.cause.occurred_at < cart.as_of


def hold_for_order(cart: Cart | None, at: datetime) -> Mapping[str, int]:
    """Return the hold that an order placed `at` takes over from its cart: none if the cart is newer than the order."""
    return {} if cart is None or _is_newer(cart, at) else cart.held


def convert_cart(moves: Movements, cart: Cart | None, command: CreateOrder) -> Cart | None:
    """Release a cart's hold in favour of its order, and mark the cart converted at the order's time.

    An unknown cart is marked as well, so that its late snapshots do nothing. A cart that is newer than the order keeps
    its hold.
    """
    if command.cart_id is None:
        return None
    at = command.cause.occurred_at
    if cart is not None and _is_newer(cart, at):
        converted_at = at if cart.converted_at is None else max(cart.converted_at, at)
        return cart._replace(converted_at=converted_at, version=cart.version + 1)
    if cart is not None and cart.held:
        moves.release(cart.held, Attribution(command.cause, ReferenceType.CART, command.cart_id))
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
    """Release the hold of a cart that was due before `due_before`; any other cart is a duplicate.

    The cause is named after the deadline and the cart's version, because two snapshots can have the same deadline.
    """
    cart = state.carts.get(command.cart_id)
    if cart is None or cart.status is not CartStatus.ACTIVE:
        return Decision(Disposition.DUPLICATE)
    due = cart.expires_at
    if due is None or due >= command.due_before:
        return Decision(Disposition.DUPLICATE)
    cause = Cause("inventory-worker", f"expired:cart:{cart.cart_id}:{due.isoformat()}:{cart.version}", due)
    moves = Movements(state.products)
    moves.release(cart.held, Attribution(cause, ReferenceType.CART, cart.cart_id))
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
    alerts = moves.close(cause)
    return Decision(
        Disposition.APPLIED,
        products=moves.touched,
        cart=expired,
        entries=tuple(moves.entries),
        outcomes=(outcome, *alerts),
    )


def _is_known(shortage: Shortage) -> bool:
    """Sort key: unknown products first, in the order of `Reason`."""
    return shortage.reason is not Reason.UNKNOWN_PRODUCT


def _is_newer(cart: Cart, at: datetime) -> bool:
    """Say whether the cart's newest snapshot is from after `at`, and so from after an order placed then."""
    return cart.as_of is not None and cart.as_of > at


def _shortage_outcome(cart: Cart, cause: Cause, shortages: list[Shortage]) -> ReservationOutcome:
    return ReservationOutcome(
        OutcomeKind.CART_SHORTAGE,
        ReferenceType.CART,
        cart.cart_id,
        cart.user_id,
        cart.held,
        shortages[0].reason,
        tuple(shortages),
        cause,
    )
