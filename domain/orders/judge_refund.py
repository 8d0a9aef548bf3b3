"""Judge one refund of an order that is paid or refused, whether it has just arrived or had to wait."""

from collections.abc import Mapping

from domain.draft import OrderDraft
from domain.model import Fact, OrderStatus, OutcomeKind, Reason
from domain.orders.waiting import refund_identity

_DEDUCTED = OrderStatus.DEDUCTED


def judge_refund(draft: OrderDraft, fact: Fact) -> tuple[Reason | None, OutcomeKind | None]:
    """Apply a refund to the draft, or refuse it whole; returns the refusal and the kind of outcome to publish.

    With `restock` the units go back on hand. Without, they are only counted; but where the whole order's cancellation
    has already put them back, they are taken off again.
    """
    lines = fact.lines or {}
    draft.mark_seen(refund_identity(fact.refund_id or ""))
    refusal = _refusal(draft, fact, lines)
    if refusal is not None:
        return refusal, None
    if fact.restock:
        draft.restock(lines, fact.cause)
        return None, OutcomeKind.RESTOCKED
    if draft.status is _DEDUCTED:
        draft.keep_out_of_stock(lines)
        return None, None
    draft.reverse_restock(lines, fact.cause)
    return None, OutcomeKind.DEDUCTED


def _refusal(draft: OrderDraft, fact: Fact, lines: Mapping[str, int]) -> Reason | None:
    if draft.refused:
        return Reason.ORDER_REJECTED
    if draft.status is OrderStatus.EXPIRED:
        return Reason.RESERVATION_EXPIRED
    takes_stock = not fact.restock and draft.status is not _DEDUCTED
    if not (draft.is_reversed(lines) if takes_stock else draft.is_returnable(lines)):
        return Reason.REFUND_EXCEEDS_DEDUCTED
    if takes_stock and any(draft.moves.available(product_id) < quantity for product_id, quantity in lines.items()):
        return Reason.INSUFFICIENT_STOCK
    return None
