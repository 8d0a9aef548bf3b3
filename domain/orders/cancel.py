"""`order.cancelled`: give up the whole order, or the lines that the cancellation names; an early one waits."""

from collections.abc import Mapping

from domain.commands import CancelOrder
from domain.draft import OrderDraft
from domain.model import Decision, Disposition, Fact, FactKind, Order, OrderStatus, OutcomeKind, Policy, Reason, State
from domain.orders.conclude import conclude, order_outcome
from domain.orders.waiting import (
    content_of,
    identity_of,
    is_cancelled_early,
    judge_repeat,
    judged_too_many,
    park,
)

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
    if order.paid and not order.refused:
        draft.lines.cancel_whole()
    if order.status is OrderStatus.DEDUCTED:
        back = draft.lines.surplus(order.lines)
        draft.restock(back, command.cause)
        draft.status = OrderStatus.RESTOCKED
        return conclude(draft, order_outcome(OutcomeKind.RESTOCKED, draft, command.cause, back))
    held = draft.lines.held()
    draft.release(held)
    draft.status, draft.expires_at = OrderStatus.RELEASED, None
    return conclude(draft, order_outcome(OutcomeKind.RELEASED, draft, command.cause, held))


def _cancel_lines(state: State, order: Order, command: CancelOrder, lines: Mapping[str, int]) -> Decision:
    fact = Fact(FactKind.CANCELLED, command.cause, lines, command.cancellation_id)
    repeat = judge_repeat(order, fact)
    if repeat is not None:
        return repeat
    if order.status in _CANCELLED_WHOLE:
        return Decision(Disposition.DUPLICATE)
    if order.status is OrderStatus.PENDING:
        return park(order, fact)
    if (conflict := judged_too_many(order)) is not None:
        return conflict
    return _judge_lines(OrderDraft(order, state.products, command.cause, command.reason), fact, lines)


def _judge_lines(draft: OrderDraft, fact: Fact, lines: Mapping[str, int]) -> Decision:
    """Cancel exactly these units, or refuse the cancellation whole; an order without wanted units is released.

    Of a paid order, those units go back on hand that no refund has put there before.
    """
    cause = fact.cause
    draft.mark_seen(identity_of(fact), content_of(fact))
    if not draft.lines.is_cancellable(lines):
        return conclude(draft, None, refusal=Reason.CANCELLATION_EXCEEDS_ORDER)
    draft.lines.cancel(lines)
    if draft.status is OrderStatus.DEDUCTED:
        back = draft.lines.surplus(lines)
        draft.restock(back, cause)
        return conclude(draft, order_outcome(OutcomeKind.RESTOCKED, draft, cause, back))
    released = lines if draft.status is OrderStatus.RESERVED else {}
    draft.release(released)
    if not draft.lines.wanted():
        draft.status, draft.expires_at = OrderStatus.RELEASED, None
    return conclude(draft, order_outcome(OutcomeKind.RELEASED, draft, cause, released))
