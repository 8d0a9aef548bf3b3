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
from domain.orders.conclude import conclude, order_outcome
from domain.orders.shortages import find_shortages, missing_units
from domain.orders.waiting import apply_early_cancellation, has_waiting, is_cancelled_early, park

# Read once: looking a member up through its enum costs 0.1 us, and every event needs several.
_PENDING, _RESERVED, _DEDUCTED = OrderStatus.PENDING, OrderStatus.RESERVED, OrderStatus.DEDUCTED


def pay_order(state: State, command: PayOrder, policy: Policy) -> Decision:
    """Deduct the order's hold. A paid order that cannot be served is a shortfall."""
    order = state.orders.get(command.order_id) or Order(command.order_id)
    if order.paid or has_waiting(order, FactKind.PAID):
        return Decision(Disposition.DUPLICATE)
    if order.status is _PENDING and not is_cancelled_early(order):
        return park(order, Fact(FactKind.PAID, command.cause))
    draft = OrderDraft(order, state.products, command.cause)
    draft.paid = True
    if order.status is _RESERVED:
        return conclude(draft, deduct(draft, draft.held()))
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


def _pay_late(state: State, draft: OrderDraft, policy: Policy) -> Decision:
    if policy.late_payment is LatePaymentPolicy.SHORTFALL:
        return _shortfall(draft, Reason.RESERVATION_EXPIRED)
    wanted = draft.wanted()
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
    reported = shortages or tuple(
        Shortage(product_id, quantity, draft.moves.available(product_id), reason)
        for product_id, quantity in draft.wanted().items()
    )
    outcome = order_outcome(OutcomeKind.SHORTFALL, draft, draft.cause, {}, reason, reported)
    if reason is Reason.ORDER_CANCELLED and not draft.refused:
        draft.cancel_whole()
    return conclude(draft, outcome, resolved=resolved, refusal=reason, short=missing_units(shortages))
