"""`payment.refunded`: put refunded units back on hand, or only count them; a refund waits for its order's payment."""

from domain.commands import RefundOrder
from domain.draft import OrderDraft
from domain.model import Decision, Disposition, Fact, FactKind, Order, OrderStatus, Policy, State
from domain.orders.conclude import conclude, order_outcome
from domain.orders.judge_refund import judge_refund
from domain.orders.waiting import content_of, identity_of, judge_repeat, judged_too_many, park


def refund_order(state: State, command: RefundOrder, _policy: Policy) -> Decision:
    """Refund lines of an order; a refund counts once, by its refund id, and moves nothing if it names no lines."""
    order = state.orders.get(command.order_id) or Order(command.order_id)
    fact = Fact(FactKind.REFUNDED, command.cause, command.lines, command.refund_id, command.restock, command.returned)
    repeat = judge_repeat(order, fact)
    if repeat is not None:
        return repeat
    waits = order.status is OrderStatus.PENDING or not (order.paid or order.refused)
    if waits and command.lines:
        return park(order, fact)
    if (conflict := judged_too_many(order)) is not None:
        return conflict
    if not command.lines:
        seen = {**order.seen, identity_of(fact): content_of(fact)}
        return Decision(Disposition.APPLIED, order=order._replace(seen=seen, version=order.version + 1))
    draft = OrderDraft(order, state.products, command.cause)
    refusal, kind, moved = judge_refund(draft, fact)
    outcome = None if kind is None else order_outcome(kind, draft, command.cause, moved)
    return conclude(draft, outcome, refusal=refusal)
