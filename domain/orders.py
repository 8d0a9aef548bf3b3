"""Orders: what each fact means in each state.

The table of the design, one function a column. A refusal is a value and it sticks. Facts that come
before the order can take them wait in `Order.waiting`, and are judged when it can.

One rule is worth a word: pieces refunded without restock never come back to the shelf, whether the
refund or the cancellation of the whole order is read first. Read last, such a refund takes the
pieces off the shelf again (see the decision record on refunds without restock).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from domain.carts import convert_cart, hold_for_order
from domain.commands import CancelOrder, CreateOrder, ExpireOrder, ForgetFact, PayOrder, RefundOrder
from domain.model import (
    Cart,
    Cause,
    Decision,
    Disposition,
    Fact,
    FactKind,
    LatePaymentPolicy,
    Line,
    Order,
    OrderStatus,
    Outcome,
    OutcomeKind,
    Policy,
    Reason,
    ReferenceType,
    ReservationOutcome,
    Settled,
    Shortage,
    State,
)
from domain.movements import Movements

_DUPLICATE = Decision(Disposition.DUPLICATE)
_UNDONE = (OrderStatus.RELEASED, OrderStatus.RESTOCKED)


# --- order.created ------------------------------------------------------------------------------


def create_order(state: State, command: CreateOrder, policy: Policy) -> Decision:
    """Reserve all lines or none, net of what is already known to be cancelled; deduct at once if paid."""
    known = state.orders.get(command.order_id)
    if known is not None and known.status is not OrderStatus.PENDING:
        return _repeated_order(known, command)
    order = _new_order(known, command)
    order, settled = _apply_early_cancellations(order)
    paid = order.paid or _waits(order, FactKind.PAID)
    cancelled = _waits_for_whole_cancellation(order) or not any(
        line.wanted for line in order.lines.values()
    )
    settled += tuple(
        Settled(fact.cause, Disposition.APPLIED)
        for fact in order.waiting
        if fact.kind is not FactKind.REFUNDED
    )
    order = replace(
        order,
        paid=paid,
        waiting=tuple(fact for fact in order.waiting if fact.kind is FactKind.REFUNDED),
    )
    moves = Movements(state.products, command.cause, ReferenceType.ORDER, order.order_id)
    cart = None if command.cart_id is None else state.carts.get(command.cart_id)
    if cancelled:
        order = replace(_count_as_undone(order) if paid else order, status=OrderStatus.RELEASED)
        outcome = _outcome(OutcomeKind.RELEASED, order, command.cause, {})
        converted = convert_cart(moves, cart, command)
        return _conclude(moves, order, [outcome], cart=converted, settled=settled)
    shortages = _shortages(state, moves, order, hold_for_order(cart, command.cause.occurred_at))
    if shortages:
        order = replace(order, status=OrderStatus.REJECTED, refused=True)
        outcome = _outcome(
            OutcomeKind.SHORTFALL if paid else OutcomeKind.REJECTED,
            order,
            command.cause,
            {},
            shortages[0].reason,
            shortages,
        )
        return _conclude(
            moves,
            order,
            [outcome],
            settled=settled,
            refusal=_first_reason(shortages),
            short=_short_of_stock(shortages),
        )
    converted = convert_cart(moves, cart, command)
    order = _reserve(moves, order)
    if paid:
        order, outcome = _deduct(moves, order, command.cause)
    else:
        order = replace(
            order,
            status=OrderStatus.RESERVED,
            expires_at=command.cause.occurred_at + policy.order_ttl,
        )
        outcome = _outcome(OutcomeKind.RESERVED, order, command.cause, _held(order))
    return _conclude(moves, order, [outcome], cart=converted, settled=settled)


def _repeated_order(order: Order, command: CreateOrder) -> Decision:
    if {product_id: line.requested for product_id, line in order.lines.items()} == command.lines:
        return _DUPLICATE
    return Decision(
        Disposition.CONFLICT,
        message=f"order {order.order_id} was created before with other lines",
    )


def _new_order(known: Order | None, command: CreateOrder) -> Order:
    order = known or Order(command.order_id)
    return replace(
        order,
        user_id=command.user_id,
        cart_id=command.cart_id,
        lines={product_id: Line(quantity) for product_id, quantity in command.lines.items()},
    )


def _apply_early_cancellations(order: Order) -> tuple[Order, tuple[Settled, ...]]:
    """Count the partial cancellations that came before the order, and settle them."""
    settled: list[Settled] = []
    for fact in order.waiting:
        if fact.kind is not FactKind.CANCELLED or fact.lines is None:
            continue
        order = replace(order, waiting=tuple(kept for kept in order.waiting if kept is not fact))
        if _within(order, fact.lines, "wanted"):
            order = replace(order, lines=_count(order, fact.lines, "cancelled"))
            order = _see(order, _cancellation_identity(fact.cause))
            settled.append(Settled(fact.cause, Disposition.APPLIED))
        else:
            settled.append(
                Settled(fact.cause, Disposition.REFUSED, Reason.CANCELLATION_EXCEEDS_ORDER)
            )
    return order, tuple(settled)


def _shortages(
    state: State, moves: Movements, order: Order, own: Mapping[str, int]
) -> tuple[Shortage, ...]:
    """Return every line that cannot be served, unknown products first, with what is there for it.

    `own` is what the order's cart holds: that is there for the order.
    """
    unknown: list[Shortage] = []
    short: list[Shortage] = []
    for product_id, line in order.lines.items():
        if not line.wanted:
            continue
        if product_id not in state.products:
            unknown.append(Shortage(product_id, line.wanted, 0, Reason.UNKNOWN_PRODUCT))
            continue
        available = moves.available(product_id) + own.get(product_id, 0)
        if available < line.wanted:
            short.append(
                Shortage(product_id, line.wanted, available, Reason.INSUFFICIENT_STOCK)
            )
    return (*unknown, *short)


# --- payment.succeeded --------------------------------------------------------------------------


def pay_order(state: State, command: PayOrder, policy: Policy) -> Decision:
    """Deduct what is reserved; remember an early payment; a late one follows the policy."""
    order = state.orders.get(command.order_id) or Order(command.order_id)
    if order.paid or _waits(order, FactKind.PAID):
        return _DUPLICATE
    moves = Movements(state.products, command.cause, ReferenceType.ORDER, order.order_id)
    match order.status:
        case OrderStatus.PENDING:
            if not _waits_for_whole_cancellation(order):
                return _park(order, Fact(FactKind.PAID, command.cause))
            return _shortfall(moves, order, command.cause, Reason.ORDER_CANCELLED)
        case OrderStatus.RESERVED:
            order, outcome = _deduct(moves, order, command.cause)
            return _conclude(moves, order, [outcome])
        case OrderStatus.REJECTED:
            return _shortfall(moves, order, command.cause, Reason.ORDER_REJECTED)
        case OrderStatus.EXPIRED:
            return _pay_late(state, moves, order, command.cause, policy)
        case _:  # released; deducted and restocked orders are paid, so they never come here
            if not order.refused:
                order = _count_as_undone(order)
            return _shortfall(moves, order, command.cause, Reason.ORDER_CANCELLED)


def _pay_late(
    state: State, moves: Movements, order: Order, cause: Cause, policy: Policy
) -> Decision:
    if policy.late_payment is LatePaymentPolicy.SHORTFALL:
        return _shortfall(moves, order, cause, Reason.RESERVATION_EXPIRED)
    shortages = _shortages(state, moves, order, {})
    if shortages:
        return _shortfall(moves, order, cause, Reason.RESERVATION_EXPIRED, shortages)
    order, outcome = _deduct(moves, _reserve(moves, order), cause)
    return _conclude(moves, order, [outcome])


def _shortfall(
    moves: Movements,
    order: Order,
    cause: Cause,
    reason: Reason,
    shortages: tuple[Shortage, ...] = (),
) -> Decision:
    """Tell that money was taken for goods that the shop does not give."""
    short = _short_of_stock(shortages)
    if not shortages:
        shortages = tuple(
            Shortage(product_id, line.wanted, moves.available(product_id), reason)
            for product_id, line in order.lines.items()
            if line.wanted
        )
    order = replace(order, paid=True)
    outcome = _outcome(OutcomeKind.SHORTFALL, order, cause, {}, reason, shortages)
    return _conclude(moves, order, [outcome], refusal=reason, short=short)


# --- order.cancelled ----------------------------------------------------------------------------


def cancel_order(state: State, command: CancelOrder, _policy: Policy) -> Decision:
    """Give back the whole order, or the lines that the cancellation names."""
    order = state.orders.get(command.order_id) or Order(command.order_id)
    if command.lines is not None:
        return _cancel_lines(state, order, command, command.lines)
    if order.status in _UNDONE or _waits_for_whole_cancellation(order):
        return _DUPLICATE
    if order.status is OrderStatus.PENDING:
        return _park(order, Fact(FactKind.CANCELLED, command.cause))
    moves = Movements(state.products, command.cause, ReferenceType.ORDER, order.order_id)
    if order.status is OrderStatus.DEDUCTED:
        back = {product_id: line.outside for product_id, line in order.lines.items() if line.outside}
        order = _restock(moves, order, back)
        order = replace(order, status=OrderStatus.RESTOCKED)
        outcome = _outcome(OutcomeKind.RESTOCKED, order, command.cause, back)
    else:
        held = _held(order)
        order = replace(_release(moves, order, held), status=OrderStatus.RELEASED, expires_at=None)
        outcome = _outcome(OutcomeKind.RELEASED, order, command.cause, held)
    return _conclude(moves, order, [outcome])


def _cancel_lines(
    state: State, order: Order, command: CancelOrder, lines: Mapping[str, int]
) -> Decision:
    identity = _cancellation_identity(command.cause)
    if order.status in _UNDONE or identity in order.seen:
        return _DUPLICATE
    if order.status is OrderStatus.PENDING:
        return _park(order, Fact(FactKind.CANCELLED, command.cause, lines))
    order = _see(order, identity)
    moves = Movements(state.products, command.cause, ReferenceType.ORDER, order.order_id)
    bound = "outside" if order.status is OrderStatus.DEDUCTED else "wanted"
    if not _within(order, lines, bound):
        return _conclude(moves, order, [], refusal=Reason.CANCELLATION_EXCEEDS_ORDER)
    if order.status is OrderStatus.DEDUCTED:
        order = _restock(moves, order, lines)
        outcome = _outcome(OutcomeKind.RESTOCKED, order, command.cause, lines)
        return _conclude(moves, order, [outcome])
    released = lines if order.status is OrderStatus.RESERVED else {}
    order = _release(moves, order, released)
    order = replace(order, lines=_count(order, lines, "cancelled"))
    if not any(line.wanted for line in order.lines.values()):
        order = replace(order, status=OrderStatus.RELEASED, expires_at=None)
    outcome = _outcome(OutcomeKind.RELEASED, order, command.cause, released)
    return _conclude(moves, order, [outcome])


# --- payment.refunded ---------------------------------------------------------------------------


def refund_order(state: State, command: RefundOrder, _policy: Policy) -> Decision:
    """Put refunded pieces back; a refund waits until the order is created and paid."""
    order = state.orders.get(command.order_id) or Order(command.order_id)
    waits = any(fact.refund_id == command.refund_id for fact in order.waiting)
    if waits or _refund_identity(command.refund_id) in order.seen:
        return _DUPLICATE
    fact = Fact(
        FactKind.REFUNDED, command.cause, command.lines, command.refund_id, command.restock
    )
    if order.status is OrderStatus.PENDING or not (order.paid or order.refused):
        return _park(order, fact)
    moves = Movements(state.products, command.cause, ReferenceType.ORDER, order.order_id)
    order, refusal, outcome = _judge_refund(moves, order, fact)
    return _conclude(moves, order, [] if outcome is None else [outcome], refusal=refusal)


def _judge_refund(
    moves: Movements, order: Order, fact: Fact
) -> tuple[Order, Reason | None, Outcome | None]:
    """Apply one refund to an order that is paid or refused; returns the refusal or what is told."""
    lines = fact.lines or {}
    order = _see(order, _refund_identity(fact.refund_id or ""))
    if order.refused:
        return order, Reason.ORDER_REJECTED, None
    if order.status is OrderStatus.EXPIRED:
        return order, Reason.RESERVATION_EXPIRED, None
    if fact.restock:
        if not _within(order, lines, "outside"):
            return order, Reason.REFUND_EXCEEDS_DEDUCTED, None
        order = _restock(moves, order, lines)
        return order, None, _outcome(OutcomeKind.RESTOCKED, order, fact.cause, lines)
    if order.status is OrderStatus.DEDUCTED:
        if not _within(order, lines, "outside"):
            return order, Reason.REFUND_EXCEEDS_DEDUCTED, None
        return replace(order, lines=_count(order, lines, "withheld")), None, None
    if not _within(order, lines, "restocked"):
        return order, Reason.REFUND_EXCEEDS_DEDUCTED, None
    if any(moves.available(product_id) < quantity for product_id, quantity in lines.items()):
        return order, Reason.INSUFFICIENT_STOCK, None
    for product_id, quantity in lines.items():
        moves.write_off(product_id, quantity)
    back = {product_id: -quantity for product_id, quantity in lines.items()}
    order = replace(order, lines=_count(order, back, "restocked"))
    order = replace(order, lines=_count(order, lines, "withheld"))
    return order, None, _outcome(OutcomeKind.DEDUCTED, order, fact.cause, lines)


# --- expiry and deadlines -----------------------------------------------------------------------


def expire_order(state: State, command: ExpireOrder, _policy: Policy) -> Decision:
    """Drop the hold of an order that was due at the horizon; anything else is left alone.

    The cause is the deadline itself, so an expiry says the same whoever carries it out.
    """
    order = state.orders.get(command.order_id)
    if order is None or order.status is not OrderStatus.RESERVED:
        return _DUPLICATE
    due = order.expires_at
    if due is None or due > command.horizon:
        return _DUPLICATE
    cause = Cause("inventory-worker", f"expired:order:{order.order_id}:{due.isoformat()}", due)
    moves = Movements(state.products, cause, ReferenceType.ORDER, order.order_id)
    held = _held(order)
    order = replace(_release(moves, order, held), status=OrderStatus.EXPIRED, expires_at=None)
    return _conclude(moves, order, [_outcome(OutcomeKind.EXPIRED, order, cause, held)])


def forget_fact(state: State, command: ForgetFact, _policy: Policy) -> Decision:
    """Withdraw a waiting fact, as if its event had never come."""
    order = state.orders.get(command.order_id)
    waiting = () if order is None else order.waiting
    kept = tuple(
        fact
        for fact in waiting
        if (fact.cause.source, fact.cause.event_id) != (command.source, command.event_id)
    )
    if order is None or len(kept) == len(waiting):
        return _DUPLICATE
    order = replace(order, waiting=kept, version=order.version + 1)
    return Decision(Disposition.APPLIED, order=order)


# --- moving an order's lines --------------------------------------------------------------------


def _reserve(moves: Movements, order: Order) -> Order:
    for product_id, line in order.lines.items():
        if line.wanted:
            moves.reserve(product_id, line.wanted)
    return replace(
        order,
        lines={
            product_id: line._replace(reserved=line.reserved + line.wanted)
            for product_id, line in order.lines.items()
        },
    )


def _deduct(moves: Movements, order: Order, cause: Cause) -> tuple[Order, Outcome]:
    held = _held(order)
    for product_id, quantity in held.items():
        moves.deduct(product_id, quantity)
    order = replace(
        order,
        status=OrderStatus.DEDUCTED,
        paid=True,
        expires_at=None,
        lines=_count(order, held, "deducted"),
    )
    return order, _outcome(OutcomeKind.DEDUCTED, order, cause, held)


def _release(moves: Movements, order: Order, lines: Mapping[str, int]) -> Order:
    for product_id, quantity in lines.items():
        moves.release(product_id, quantity)
    return replace(order, lines=_count(order, lines, "released"))


def _restock(moves: Movements, order: Order, lines: Mapping[str, int]) -> Order:
    for product_id, quantity in lines.items():
        moves.restock(product_id, quantity)
    return replace(order, lines=_count(order, lines, "restocked"))


def _count_as_undone(order: Order) -> Order:
    """Count what an order paid and cancelled would have taken and given back; nothing moves.

    Its refunds are then judged like those of an order that was deducted first.
    """
    return replace(
        order,
        lines={
            product_id: line._replace(
                reserved=line.reserved + line.wanted,
                deducted=line.deducted + line.wanted,
                restocked=line.restocked + line.wanted,
            )
            for product_id, line in order.lines.items()
        },
    )


def _count(order: Order, lines: Mapping[str, int], counter: str) -> dict[str, Line]:
    """Return the order's lines with `lines` added to one counter."""
    counted = dict(order.lines)
    for product_id, quantity in lines.items():
        line = counted[product_id]
        counted[product_id] = line._replace(**{counter: getattr(line, counter) + quantity})
    return counted


def _within(order: Order, lines: Mapping[str, int], bound: str) -> bool:
    """Say whether every quantity is at most what the order's line has of `bound`."""
    return all(
        product_id in order.lines and quantity <= getattr(order.lines[product_id], bound)
        for product_id, quantity in lines.items()
    )


# --- small words --------------------------------------------------------------------------------


def _held(order: Order) -> dict[str, int]:
    return {product_id: line.held for product_id, line in order.lines.items() if line.held}


def _waits(order: Order, kind: FactKind) -> bool:
    return any(fact.kind is kind for fact in order.waiting)


def _waits_for_whole_cancellation(order: Order) -> bool:
    return any(fact.kind is FactKind.CANCELLED and fact.lines is None for fact in order.waiting)


def _refund_identity(refund_id: str) -> str:
    return f"refund:{refund_id}"


def _cancellation_identity(cause: Cause) -> str:
    return f"cancellation:{cause.source}:{cause.event_id}"


def _see(order: Order, identity: str) -> Order:
    return replace(order, seen=(*order.seen, identity))


def _first_reason(shortages: tuple[Shortage, ...]) -> Reason:
    return shortages[0].reason


def _short_of_stock(shortages: tuple[Shortage, ...]) -> tuple[str, ...]:
    return tuple(
        shortage.product_id
        for shortage in shortages
        if shortage.reason is Reason.INSUFFICIENT_STOCK
    )


def _park(order: Order, fact: Fact) -> Decision:
    waiting = replace(order, waiting=(*order.waiting, fact), version=order.version + 1)
    return Decision(Disposition.PARKED, order=waiting)


def _outcome(  # noqa: PLR0913, PLR0917 - it is these facts
    kind: OutcomeKind,
    order: Order,
    cause: Cause,
    lines: Mapping[str, int],
    reason: Reason | None = None,
    shortages: tuple[Shortage, ...] = (),
) -> Outcome:
    return ReservationOutcome(
        kind,
        ReferenceType.ORDER,
        order.order_id,
        order.user_id,
        lines,
        reason,
        shortages,
        cause,
    )


def _conclude(  # noqa: PLR0913 - a decision is these facts
    moves: Movements,
    order: Order,
    outcomes: list[Outcome],
    *,
    cart: Cart | None = None,
    settled: tuple[Settled, ...] = (),
    refusal: Reason | None = None,
    short: tuple[str, ...] = (),
) -> Decision:
    """Judge the refunds that waited for this, close the books and put the decision together."""
    if order.waiting and order.status is not OrderStatus.PENDING and (order.paid or order.refused):
        for fact in order.waiting:
            moves.cause = fact.cause
            order, reason, outcome = _judge_refund(moves, order, fact)
            disposition = Disposition.APPLIED if reason is None else Disposition.REFUSED
            settled = (*settled, Settled(fact.cause, disposition, reason))
            if outcome is not None:
                outcomes.append(outcome)
        order = replace(order, waiting=())
    alerts = moves.close()
    return Decision(
        Disposition.APPLIED if refusal is None else Disposition.REFUSED,
        refusal,
        None,
        moves.touched,
        replace(order, version=order.version + 1),
        cart,
        tuple(moves.entries),
        (*outcomes, *alerts),
        settled,
        short,
    )
