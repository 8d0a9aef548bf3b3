"""Orders: what each fact means in each state.

The table of the design, one function a column. A refusal is a value and it sticks. Facts that come before the order can
take them wait in `Order.waiting`, and are judged when it can.

One rule is worth a word: pieces refunded without restock never come back to the shelf, whether the refund or the
cancellation of the whole order is read first. Read last, such a refund takes the pieces off the shelf again (see the
decision record on refunds without restock).
"""

from collections.abc import Mapping

from domain.carts import convert_cart, hold_for_order
from domain.commands import CancelOrder, CreateOrder, ExpireOrder, ForgetFact, PayOrder, RefundOrder
from domain.draft import OrderDraft
from domain.model import (
    Cart,
    Cause,
    Decision,
    Disposition,
    Fact,
    FactKind,
    LatePaymentPolicy,
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
_CANCELLED_WHOLE = (OrderStatus.RELEASED, OrderStatus.RESTOCKED)
# Looked up once: through its enum a member costs 0.1 us each time, and every event asks for several of these.
_PENDING, _RESERVED, _DEDUCTED = OrderStatus.PENDING, OrderStatus.RESERVED, OrderStatus.DEDUCTED
_ORDER, _APPLIED = ReferenceType.ORDER, Disposition.APPLIED


# --- order.created ------------------------------------------------------------------------------


def create_order(state: State, command: CreateOrder, policy: Policy) -> Decision:
    """Reserve all lines or none, net of what is already known to be cancelled; deduct at once if paid."""
    known = state.orders.get(command.order_id) or Order(command.order_id)
    if known.status is not _PENDING:
        return _repeated_order(known, command)
    draft = OrderDraft(known)
    draft.user_id, draft.cart_id = command.user_id, command.cart_id
    draft.request(command.lines)
    cancelled, settled = _take_early_facts(draft) if draft.waiting else (False, ())
    cause = command.cause
    moves = Movements(state.products, cause, _ORDER, command.order_id)
    cart = None if command.cart_id is None else state.carts.get(command.cart_id)
    wanted = draft.wanted()
    if cancelled or not wanted:
        draft.status = OrderStatus.RELEASED
        if draft.paid:
            draft.count_as_reversed()
        converted = convert_cart(moves, cart, command)
        outcome = _outcome(OutcomeKind.RELEASED, draft, cause, {})
        return _conclude(moves, draft, outcome, cart=converted, settled=settled)
    shortages = _shortages(state, wanted, hold_for_order(cart, cause.occurred_at))
    if shortages:
        return _reject(moves, draft, shortages, settled)
    converted = convert_cart(moves, cart, command)
    draft.reserve(moves, wanted)
    if draft.paid:
        outcome = _deduct(moves, draft, wanted)
    else:
        draft.status = _RESERVED
        draft.expires_at = cause.occurred_at + policy.order_ttl
        outcome = _outcome(OutcomeKind.RESERVED, draft, cause, wanted)
    return _conclude(moves, draft, outcome, cart=converted, settled=settled)


def _repeated_order(order: Order, command: CreateOrder) -> Decision:
    if {product_id: line.requested for product_id, line in order.lines.items()} == command.lines:
        return _DUPLICATE
    return Decision(Disposition.CONFLICT, message=f"order {order.order_id} was created before with other lines")


def _take_early_facts(draft: OrderDraft) -> tuple[bool, tuple[Settled, ...]]:
    """Take what came before the order; says whether that cancelled it whole, and what no longer waits.

    Partial cancellations are counted, a payment is marked, and refunds go on waiting.
    """
    cancelled = False
    settled: list[Settled] = []
    for fact in draft.waiting:
        refusal: Reason | None = None
        match fact.kind:
            case FactKind.REFUNDED:
                continue
            case FactKind.PAID:
                draft.paid = True
            case FactKind.CANCELLED if fact.lines is None:
                cancelled = True
            case FactKind.CANCELLED:
                refusal = _cancel_early(draft, fact.cause, fact.lines)
        disposition = _APPLIED if refusal is None else Disposition.REFUSED
        settled.append(Settled(fact.cause, disposition, refusal))
    draft.waiting = tuple(fact for fact in draft.waiting if fact.kind is FactKind.REFUNDED)
    return cancelled, tuple(settled)


def _cancel_early(draft: OrderDraft, cause: Cause, lines: Mapping[str, int]) -> Reason | None:
    draft.see(_cancellation_identity(cause))
    if not draft.has(lines, "wanted"):
        return Reason.CANCELLATION_EXCEEDS_ORDER
    draft.count(lines, "cancelled")
    return None


def _shortages(state: State, wanted: Mapping[str, int], own: Mapping[str, int]) -> tuple[Shortage, ...]:
    """Return every product of which there is less than wanted, unknown ones first, with what is there of it.

    `own` is what the order's cart holds: that is there for the order.
    """
    unknown: list[Shortage] = []
    short: list[Shortage] = []
    for product_id, quantity in wanted.items():
        product = state.products.get(product_id)
        if product is None:
            unknown.append(Shortage(product_id, quantity, 0, Reason.UNKNOWN_PRODUCT))
            continue
        available = product.on_hand - product.reserved + own.get(product_id, 0)
        if available < quantity:
            short.append(Shortage(product_id, quantity, available, Reason.INSUFFICIENT_STOCK))
    return (*unknown, *short)


def _reject(
    moves: Movements, draft: OrderDraft, shortages: tuple[Shortage, ...], settled: tuple[Settled, ...]
) -> Decision:
    """Refuse the order whole; a paid one is a shortfall. Its cart keeps what it holds."""
    draft.status, draft.refused = OrderStatus.REJECTED, True
    kind = OutcomeKind.SHORTFALL if draft.paid else OutcomeKind.REJECTED
    reason = shortages[0].reason
    outcome = _outcome(kind, draft, moves.cause, {}, reason, shortages)
    return _conclude(moves, draft, outcome, settled=settled, refusal=reason, short=_short_of_stock(shortages))


# --- payment.succeeded --------------------------------------------------------------------------


def pay_order(state: State, command: PayOrder, policy: Policy) -> Decision:
    """Deduct what is reserved; remember an early payment; a late one follows the policy."""
    order = state.orders.get(command.order_id) or Order(command.order_id)
    if order.paid or _waits(order, FactKind.PAID):
        return _DUPLICATE
    if order.status is _PENDING and not _waits_for_whole_cancellation(order):
        return _park(order, Fact(FactKind.PAID, command.cause))
    moves = Movements(state.products, command.cause, _ORDER, order.order_id)
    draft = OrderDraft(order)
    draft.paid = True
    if order.status is _RESERVED:
        return _conclude(moves, draft, _deduct(moves, draft, draft.held()))
    if order.status is OrderStatus.EXPIRED:
        return _pay_late(state, moves, draft, policy)
    if order.status is OrderStatus.REJECTED:
        return _shortfall(moves, draft, Reason.ORDER_REJECTED)
    # Cancelled: deducted and restocked orders are paid, so they never come here.
    return _shortfall(moves, draft, Reason.ORDER_CANCELLED)


def _pay_late(state: State, moves: Movements, draft: OrderDraft, policy: Policy) -> Decision:
    if policy.late_payment is LatePaymentPolicy.SHORTFALL:
        return _shortfall(moves, draft, Reason.RESERVATION_EXPIRED)
    wanted = draft.wanted()
    shortages = _shortages(state, wanted, {})
    if shortages:
        return _shortfall(moves, draft, Reason.RESERVATION_EXPIRED, shortages)
    draft.reserve(moves, wanted)
    return _conclude(moves, draft, _deduct(moves, draft, wanted))


def _deduct(moves: Movements, draft: OrderDraft, held: Mapping[str, int]) -> Outcome:
    draft.deduct(moves, held)
    draft.status, draft.expires_at = _DEDUCTED, None
    return _outcome(OutcomeKind.DEDUCTED, draft, moves.cause, held)


def _shortfall(moves: Movements, draft: OrderDraft, reason: Reason, shortages: tuple[Shortage, ...] = ()) -> Decision:
    """Tell that money was taken for goods that the shop does not give."""
    told = shortages or tuple(
        Shortage(product_id, wanted, moves.available(product_id), reason)
        for product_id, wanted in draft.wanted().items()
    )
    outcome = _outcome(OutcomeKind.SHORTFALL, draft, moves.cause, {}, reason, told)
    if reason is Reason.ORDER_CANCELLED and not draft.refused:
        draft.count_as_reversed()
    return _conclude(moves, draft, outcome, refusal=reason, short=_short_of_stock(shortages))


# --- order.cancelled ----------------------------------------------------------------------------


def cancel_order(state: State, command: CancelOrder, _policy: Policy) -> Decision:
    """Give back the whole order, or the lines that the cancellation names."""
    order = state.orders.get(command.order_id) or Order(command.order_id)
    if command.lines is not None:
        return _cancel_lines(state, order, command, command.lines)
    if order.status in _CANCELLED_WHOLE or _waits_for_whole_cancellation(order):
        return _DUPLICATE
    if order.status is _PENDING:
        return _park(order, Fact(FactKind.CANCELLED, command.cause))
    moves = Movements(state.products, command.cause, _ORDER, order.order_id, command.reason)
    draft = OrderDraft(order)
    if order.status is _DEDUCTED:
        back = draft.returnable()
        draft.restock(moves, back)
        draft.count(back, "cancelled")
        draft.status = OrderStatus.RESTOCKED
        return _conclude(moves, draft, _outcome(OutcomeKind.RESTOCKED, draft, command.cause, back))
    held = draft.held()
    draft.release(moves, held)
    draft.status, draft.expires_at = OrderStatus.RELEASED, None
    return _conclude(moves, draft, _outcome(OutcomeKind.RELEASED, draft, command.cause, held))


def _cancel_lines(state: State, order: Order, command: CancelOrder, lines: Mapping[str, int]) -> Decision:
    cause = command.cause
    identity = _cancellation_identity(cause)
    waits = any(_cancellation_identity(fact.cause) == identity for fact in order.waiting)
    if waits or identity in order.seen or order.status in _CANCELLED_WHOLE:
        return _DUPLICATE
    if order.status is _PENDING:
        return _park(order, Fact(FactKind.CANCELLED, cause, lines))
    moves = Movements(state.products, cause, _ORDER, order.order_id, command.reason)
    draft = OrderDraft(order)
    draft.see(identity)
    deducted = order.status is _DEDUCTED
    if not draft.has(lines, "returnable" if deducted else "wanted"):
        return _conclude(moves, draft, None, refusal=Reason.CANCELLATION_EXCEEDS_ORDER)
    if deducted:
        draft.restock(moves, lines)
        return _conclude(moves, draft, _outcome(OutcomeKind.RESTOCKED, draft, cause, lines))
    released = lines if order.status is _RESERVED else {}
    draft.release(moves, released)
    draft.count(lines, "cancelled")
    if not draft.wanted():
        draft.status, draft.expires_at = OrderStatus.RELEASED, None
    return _conclude(moves, draft, _outcome(OutcomeKind.RELEASED, draft, cause, released))


# --- payment.refunded ---------------------------------------------------------------------------


def refund_order(state: State, command: RefundOrder, _policy: Policy) -> Decision:
    """Put refunded pieces back; a refund waits until the order is created and paid."""
    order = state.orders.get(command.order_id) or Order(command.order_id)
    waits = any(fact.refund_id == command.refund_id for fact in order.waiting)
    if waits or _refund_identity(command.refund_id) in order.seen:
        return _DUPLICATE
    fact = Fact(FactKind.REFUNDED, command.cause, command.lines, command.refund_id, command.restock)
    if order.status is _PENDING or not (order.paid or order.refused):
        return _park(order, fact)
    moves = Movements(state.products, command.cause, _ORDER, order.order_id)
    draft = OrderDraft(order)
    refusal, outcome = _judge_refund(moves, draft, fact)
    return _conclude(moves, draft, outcome, refusal=refusal)


def _judge_refund(moves: Movements, draft: OrderDraft, fact: Fact) -> tuple[Reason | None, Outcome | None]:
    """Apply one refund to an order that is paid or refused; returns the refusal or what is told."""
    lines = fact.lines or {}
    draft.see(_refund_identity(fact.refund_id or ""))
    refusal = _refusal_of_refund(moves, draft, fact, lines)
    if refusal is not None:
        return refusal, None
    if fact.restock:
        draft.restock(moves, lines)
        return None, _outcome(OutcomeKind.RESTOCKED, draft, fact.cause, lines)
    if draft.status is _DEDUCTED:
        draft.count(lines, "not_restocked")
        return None, None
    draft.reverse_restock(moves, lines)
    return None, _outcome(OutcomeKind.DEDUCTED, draft, fact.cause, lines)


def _refusal_of_refund(moves: Movements, draft: OrderDraft, fact: Fact, lines: Mapping[str, int]) -> Reason | None:
    if draft.refused:
        return Reason.ORDER_REJECTED
    if draft.status is OrderStatus.EXPIRED:
        return Reason.RESERVATION_EXPIRED
    from_on_hand = not fact.restock and draft.status is not _DEDUCTED
    if not draft.has(lines, "reversed" if from_on_hand else "returnable"):
        return Reason.REFUND_EXCEEDS_DEDUCTED
    if from_on_hand and any(moves.available(product_id) < quantity for product_id, quantity in lines.items()):
        return Reason.INSUFFICIENT_STOCK
    return None


# --- expiry and deadlines -----------------------------------------------------------------------


def expire_order(state: State, command: ExpireOrder, _policy: Policy) -> Decision:
    """Drop the hold of an order that was due before `due_before`; anything else is left alone.

    The cause is the deadline itself, so an expiry says the same whoever carries it out.
    """
    order = state.orders.get(command.order_id)
    if order is None or order.status is not _RESERVED:
        return _DUPLICATE
    due = order.expires_at
    if due is None or due >= command.due_before:
        return _DUPLICATE
    cause = Cause("inventory-worker", f"expired:order:{order.order_id}:{due.isoformat()}", due)
    moves = Movements(state.products, cause, _ORDER, order.order_id)
    draft = OrderDraft(order)
    held = draft.held()
    draft.release(moves, held)
    draft.status, draft.expires_at = OrderStatus.EXPIRED, None
    return _conclude(moves, draft, _outcome(OutcomeKind.EXPIRED, draft, cause, held))


def forget_fact(state: State, command: ForgetFact, _policy: Policy) -> Decision:
    """Withdraw a waiting fact, as if its event had never come."""
    order = state.orders.get(command.order_id)
    if order is None:
        return _DUPLICATE
    identity = (command.source, command.event_id)
    kept = tuple(fact for fact in order.waiting if (fact.cause.source, fact.cause.event_id) != identity)
    if len(kept) == len(order.waiting):
        return _DUPLICATE
    draft = OrderDraft(order)
    draft.waiting = kept
    return Decision(_APPLIED, order=draft.freeze())


# --- small words --------------------------------------------------------------------------------


def _waits(order: Order, kind: FactKind) -> bool:
    return bool(order.waiting) and any(fact.kind is kind for fact in order.waiting)


def _waits_for_whole_cancellation(order: Order) -> bool:
    return bool(order.waiting) and any(fact.kind is FactKind.CANCELLED and fact.lines is None for fact in order.waiting)


def _refund_identity(refund_id: str) -> str:
    return f"refund:{refund_id}"


def _cancellation_identity(cause: Cause) -> str:
    return f"cancellation:{cause.source}:{cause.event_id}"


def _short_of_stock(shortages: tuple[Shortage, ...]) -> tuple[str, ...]:
    return tuple(shortage.product_id for shortage in shortages if shortage.reason is Reason.INSUFFICIENT_STOCK)


def _park(order: Order, fact: Fact) -> Decision:
    draft = OrderDraft(order)
    draft.waiting = (*order.waiting, fact)
    return Decision(Disposition.PARKED, order=draft.freeze())


def _outcome(
    kind: OutcomeKind,
    draft: OrderDraft,
    cause: Cause,
    lines: Mapping[str, int],
    reason: Reason | None = None,
    shortages: tuple[Shortage, ...] = (),
) -> Outcome:
    return ReservationOutcome(kind, _ORDER, draft.order_id, draft.user_id, lines, reason, shortages, cause)


def _conclude(  # noqa: PLR0913 - a decision is these facts
    moves: Movements,
    draft: OrderDraft,
    outcome: Outcome | None,
    *,
    cart: Cart | None = None,
    settled: tuple[Settled, ...] = (),
    refusal: Reason | None = None,
    short: tuple[str, ...] = (),
) -> Decision:
    """Judge the refunds that waited for this, close the books and put the decision together."""
    outcomes: tuple[Outcome, ...] = () if outcome is None else (outcome,)
    if draft.waiting and draft.status is not _PENDING and (draft.paid or draft.refused):
        judged, told = _judge_waiting_refunds(moves, draft)
        settled += judged
        outcomes += told
    alerts = moves.close()
    return Decision(
        _APPLIED if refusal is None else Disposition.REFUSED,
        refusal,
        None,
        moves.touched,
        draft.freeze(),
        cart,
        tuple(moves.entries),
        (*outcomes, *alerts),
        settled,
        short,
    )


def _judge_waiting_refunds(moves: Movements, draft: OrderDraft) -> tuple[tuple[Settled, ...], tuple[Outcome, ...]]:
    """Judge each refund that waited; its entries carry its own cause, the edges of the whole the command's."""
    settled: list[Settled] = []
    outcomes: list[Outcome] = []
    cause = moves.cause
    for fact in draft.waiting:
        moves.cause = fact.cause
        refusal, outcome = _judge_refund(moves, draft, fact)
        disposition = _APPLIED if refusal is None else Disposition.REFUSED
        settled.append(Settled(fact.cause, disposition, refusal))
        if outcome is not None:
            outcomes.append(outcome)
    moves.cause = cause
    draft.waiting = ()
    return tuple(settled), tuple(outcomes)
