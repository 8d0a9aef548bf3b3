"""Expiry of an order's hold."""

from domain.commands import ExpireOrder
from domain.draft import OrderDraft
from domain.model import Cause, Decision, Disposition, OrderStatus, OutcomeKind, Policy, State
from domain.orders.conclude import conclude, order_outcome


def expire_order(state: State, command: ExpireOrder, _policy: Policy) -> Decision:
    """Release the hold of an order that was due before `due_before`; any other order is a duplicate.

    The cause is named after the deadline, so the same expiry has the same event id whichever worker carries it out.
    """
    order = state.orders.get(command.order_id)
    if order is None or order.status is not OrderStatus.RESERVED:
        return Decision(Disposition.DUPLICATE)
    due = order.expires_at
    if due is None or due >= command.due_before:
        return Decision(Disposition.DUPLICATE)
    cause = Cause("inventory-worker", f"expired:order:{order.order_id}:{due.isoformat()}", due)
    draft = OrderDraft(order, state.products, cause)
    held = draft.lines.held()
    draft.release(held)
    draft.status, draft.expires_at = OrderStatus.EXPIRED, None
    return conclude(draft, order_outcome(OutcomeKind.EXPIRED, draft, cause, held))
