"""`payment.refunded`: put refunded units back on hand, or only count them; a refund waits for its order's payment."""

from domain.commands import RefundOrder
from domain.draft import OrderDraft
from domain.model import Decision, Disposition, Fact, FactKind, Order, OrderStatus, Policy, State
from domain.orders.conclude import conclude, order_outcome
from domain.orders.judge_refund import judge_refund
from domain.orders.waiting import park, refund_identity


def refund_order(state: State, command: RefundOrder, _policy: Policy) -> Decision:
    """Refund lines of an order; a refund counts once, by its refund id."""
    order = state.orders.get(command.order_id) or Order(command.order_id)
    waits = any(fact.refund_id == command.refund_id for fact in order.waiting)
    if waits or refund_identity(command.refund_id) in order.seen:
        return Decision(Disposition.DUPLICATE)
    fact = Fact(FactKind.REFUNDED, command.cause, command.lines, command.refund_id, command.restock)
    if order.status is OrderStatus.PENDING or not (order.paid or order.refused):
        return park(order, fact)
    draft = OrderDraft(order, state.products, command.cause)
    refusal, kind = judge_refund(draft, fact)
    outcome = None if kind is None else order_outcome(kind, draft, command.cause, command.lines)
    return conclude(draft, outcome, refusal=refusal)
