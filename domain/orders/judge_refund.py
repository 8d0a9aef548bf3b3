"""Judge one refund of an order that is paid or refused, whether it has just arrived or had to wait."""

from collections.abc import Mapping

from domain.draft import OrderDraft
from domain.model import Fact, OrderStatus, OutcomeKind, Reason
from domain.orders.waiting import content_of, identity_of

# What was decided about a refund: why it was refused, or which outcome to publish about which units, if any moved.
Judgement = tuple[Reason | None, OutcomeKind | None, Mapping[str, int]]


def judge_refund(draft: OrderDraft, fact: Fact) -> Judgement:
    """Apply a refund to the draft, or refuse it whole.

    With `restock`, the units that no cancellation has put back on hand before go back. Without, they are only counted;
    but where a cancellation has already put them back, they are taken off again.
    """
    lines = fact.lines or {}
    draft.mark_seen(identity_of(fact), content_of(fact))
    # Whatever comes back after the whole order was cancelled is among its units.
    returned = fact.returned and draft.status is OrderStatus.DEDUCTED
    if draft.refused:
        return Reason.ORDER_REJECTED, None, {}
    if draft.status is OrderStatus.EXPIRED:
        return Reason.RESERVATION_EXPIRED, None, {}
    if not draft.lines.is_refundable(lines, returned=returned):
        return Reason.REFUND_EXCEEDS_DEDUCTED, None, {}
    draft.lines.refund(lines, restock=fact.restock, returned=returned)
    if fact.restock:
        back = draft.lines.surplus(lines)
        draft.restock(back, fact.cause)
        return None, OutcomeKind.RESTOCKED if back else None, back
    excess = draft.lines.excess(lines)
    if any(draft.moves.available(product_id) < quantity for product_id, quantity in excess.items()):
        draft.lines.refund(lines, restock=False, returned=returned, sign=-1)
        return Reason.INSUFFICIENT_STOCK, None, {}
    draft.take_off_again(excess, fact.cause)
    return None, OutcomeKind.DEDUCTED if excess else None, excess
