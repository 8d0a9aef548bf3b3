"""`order.cancelled`: give up the whole order, or the lines that the cancellation names; an early one waits."""

from collections.abc import Mapping

from domain.commands import CancelOrder
from domain.draft import OrderDraft
from domain.model import Decision, Disposition, Fact, FactKind, Order, OrderStatus, OutcomeKind, Policy, Reason, State
from domain.orders.conclude import conclude, order_outcome
from domain.orders.waiting import cancellation_identity, is_cancelled_early, park

_CANCELLED_WHOLE = (OrderStatus.RELEASED, OrderStatus.RESTOCKED)


def cancel_order(state: State, command: CancelOrder, _policy: Policy) -> Decision:
    """Release what the order holds, or restock what was deducted and not refunded."""
    order = state.orders.get(command.order_id) or Order(command.order_id)
    if command.lines is not None:
        return _cancel_lines(state, order, command, command.lines)
    if order.status in _CANCELLED_WHOLE or is_cancelled_early(order):
        return Decision(Disposition.DUPLICATE)
    if order.status is OrderStatus.PENDING:
        return park(order, Fact(FactKind.CANCELLED, command.cause))
    draft = OrderDraft(order, state.products, command.cause, command.reason)
    if order.status is OrderStatus.DEDUCTED:
        back = draft.returnable()
        draft.restock(back, command.cause)
        draft.cancel(back)
        draft.status = OrderStatus.RESTOCKED
        return conclude(draft, order_outcome(OutcomeKind.RESTOCKED, draft, command.cause, back))
    held = draft.held()
    draft.release(held)
    draft.status, draft.expires_at = OrderStatus.RELEASED, None
    return conclude(draft, order_outcome(OutcomeKind.RELEASED, draft, command.cause, held))


def _cancel_lines(state: State, order: Order, command: CancelOrder, lines: Mapping[str, int]) -> Decision:
    """Cancel exactly these units, or refuse the cancellation whole; an order without wanted units is released."""
    cause = command.cause
    identity = cancellation_identity(cause)
    waits = any(cancellation_identity(fact.cause) == identity for fact in order.waiting)
    if waits or identity in order.seen or order.status in _CANCELLED_WHOLE:
        return Decision(Disposition.DUPLICATE)
    if order.status is OrderStatus.PENDING:
        return park(order, Fact(FactKind.CANCELLED, cause, lines))
    draft = OrderDraft(order, state.products, cause, command.reason)
    draft.mark_seen(identity)
    deducted = order.status is OrderStatus.DEDUCTED
    if not (draft.is_returnable(lines) if deducted else draft.is_wanted(lines)):
        return conclude(draft, None, refusal=Reason.CANCELLATION_EXCEEDS_ORDER)
    if deducted:
        draft.restock(lines, cause)
        return conclude(draft, order_outcome(OutcomeKind.RESTOCKED, draft, cause, lines))
    released = lines if order.status is OrderStatus.RESERVED else {}
    draft.release(released)
    draft.cancel(lines)
    if not draft.wanted():
        draft.status, draft.expires_at = OrderStatus.RELEASED, None
    return conclude(draft, order_outcome(OutcomeKind.RELEASED, draft, cause, released))
