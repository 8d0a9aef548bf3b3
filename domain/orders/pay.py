"""`payment.succeeded`: deduct what is reserved; an early payment waits, and a late one follows the policy."""

from collections.abc import Mapping

from domain.commands import PayOrder
from domain.draft import OrderDraft
from domain.model import (
    Decision,
    Disposition,
    Fact,
    FactKind,
    LatePaymentPolicy,
    Order,
    OrderStatus,
    OutcomeKind,
    Policy,
    Reason,
    ReservationOutcome,
    ResolvedFact,
    Shortage,
    State,
)
from domain.orders.conclude import conclude, not_delivered, order_outcome
from domain.orders.shortages import find_shortages, missing_units
from domain.orders.waiting import (
    apply_early_cancellation,
    has_waiting,
    is_cancelled_early,
    is_second_payment,
    judged_too_many,
    park,
    receive_payment,
)

# Read once: looking a member up through its enum costs 0.1 us, and every event needs several.
_PENDING, _RESERVED, _DEDUCTED = OrderStatus.PENDING, OrderStatus.RESERVED, OrderStatus.DEDUCTED


def pay_order(state: State, command: PayOrder, policy: Policy) -> Decision:
    """Deduct the order's hold. A paid order that cannot be served is a shortfall."""
    order = state.orders.get(command.order_id) or Order(command.order_id)
    fact = Fact(FactKind.PAID, command.cause, None, command.payment_id)
    if order.paid or has_waiting(order, FactKind.PAID):
        return _pay_again(state, order, fact)
    if order.status is _PENDING and not is_cancelled_early(order):
        return park(order, fact)
    draft = OrderDraft(order, state.products, command.cause)
    receive_payment(draft, fact)
    if order.status is _RESERVED:
        return conclude(draft, deduct(draft, draft.lines.held()))
    if order.status is OrderStatus.EXPIRED:
        return _pay_late(state, draft, policy)
    if order.status is OrderStatus.REJECTED:
        return _shortfall(draft, Reason.ORDER_REJECTED)
    # Cancelled, perhaps before it was created. Deducted and restocked orders are paid: they were duplicates above.
    return _shortfall(draft, Reason.ORDER_CANCELLED, resolved=apply_early_cancellation(draft))


def deduct(draft: OrderDraft, held: Mapping[str, int]) -> ReservationOutcome:
    """Take the order's hold off the stock on hand."""
    draft.deduct(held)
    draft.status, draft.expires_at = _DEDUCTED, None
    return order_outcome(OutcomeKind.DEDUCTED, draft, draft.cause, held)


def _pay_again(state: State, order: Order, fact: Fact) -> Decision:
    """Publish a second payment as a shortfall, now or when the order comes; a repeat of the first is a duplicate."""
    if not is_second_payment(order, fact):
        return Decision(Disposition.DUPLICATE)
    if not order.paid:
        return park(order, fact)
    if (conflict := judged_too_many(order)) is not None:
        return conflict
    draft = OrderDraft(order, state.products, fact.cause)
    receive_payment(draft, fact)
    return _shortfall(draft, Reason.ALREADY_PAID)


def _pay_late(state: State, draft: OrderDraft, policy: Policy) -> Decision:
    if policy.late_payment is LatePaymentPolicy.SHORTFALL:
        return _shortfall(draft, Reason.RESERVATION_EXPIRED)
    wanted = draft.lines.wanted()
    shortages = find_shortages(state, wanted, {})
    if shortages:
        return _shortfall(draft, Reason.RESERVATION_EXPIRED, shortages)
    draft.reserve(wanted)
    return conclude(draft, deduct(draft, wanted))


def _shortfall(
    draft: OrderDraft,
    reason: Reason,
    shortages: tuple[Shortage, ...] = (),
    resolved: tuple[ResolvedFact, ...] = (),
) -> Decision:
    """Report that money was taken for units that the shop will not deliver.

    The outcome lists `shortages`, or without any, every wanted line for `reason`.
    """
    reported = shortages or not_delivered(draft, reason)
    outcome = order_outcome(OutcomeKind.SHORTFALL, draft, draft.cause, {}, reason, reported)
    if reason is Reason.ORDER_CANCELLED and not draft.refused:
        draft.lines.cancel_whole()
    return conclude(draft, outcome, resolved=resolved, refusal=reason, short=missing_units(shortages))
