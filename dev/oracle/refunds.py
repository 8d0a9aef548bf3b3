"""The rules of refunds: which units can be refunded, and whether they return to the stock."""

from dev.oracle.events import Event
from dev.oracle.order_facts import OrderFacts
from dev.oracle.placement import move_to_required
from dev.oracle.stock import Stock
from dev.oracle.verdicts import Verdict, about_order


def refunded(order: OrderFacts, event: Event, stock: Stock) -> Verdict:
    """Apply a refund, or let it wait until the order is created and paid."""
    if (again := order.repeat_of(event)) is not None:
        return Verdict(again)
    if not event.lines:
        order.record_judged(event)
        return Verdict("applied")
    if order.status == "pending" or not (order.paid or order.rejected):
        order.waiting.append(event)
        return Verdict("parked")
    verdict = Verdict("applied")
    verdict.reason = apply_refund(order, event, stock, verdict)
    verdict.disposition = "refused" if verdict.reason else "applied"
    return verdict


def apply_refund(order: OrderFacts, event: Event, stock: Stock, verdict: Verdict) -> str | None:
    """Apply a refund to an order that is created and paid; returns the reason if it is refused."""
    order.record_judged(event)
    lines, restock = event.lines or {}, event.data.get("restock", True)
    if order.rejected:
        return "order_rejected"
    if order.status == "expired":
        return "reservation_expired"
    # A cancelled order has given up all its units: those that come back afterwards are not counted a second time.
    returned = event.data.get("returned", False) and order.status == "deducted"
    room = order.remaining() if returned else order.refundable()
    if any(n > room.get(p, 0) for p, n in lines.items()):
        return "refund_exceeds_deducted"
    counters = [order.returned if returned else order.refunded] + [order.not_restocked] * (not restock)
    for counter in counters:
        counter.update(lines)
    gone = {p: order.required()[p][1] - order.placed.get(p, (0, 0))[1] for p in lines}
    taken = {p: n for p, n in gone.items() if n > 0}
    if taken and not stock.is_enough(taken):
        for counter in counters:
            counter.subtract(lines)
        return "insufficient_stock"
    move_to_required(order, stock)
    back = {p: -n for p, n in gone.items() if n < 0}
    if back or taken:
        kind = "restocked" if back else "deducted"
        verdict.outcomes.append(about_order(kind, order.order_id, event.id, back or taken))
    return None
