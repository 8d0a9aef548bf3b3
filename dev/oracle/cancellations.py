"""The rules of cancellations: of a whole order, and of some of its lines."""

from dev.oracle.events import Event
from dev.oracle.order_facts import OrderFacts
from dev.oracle.placement import move_to_required
from dev.oracle.stock import Stock
from dev.oracle.verdicts import Lines, Verdict, about_order


def cancelled(order: OrderFacts, event: Event, stock: Stock) -> Verdict:
    """Cancel the whole order, or the lines that the event names; before the order is created, either waits."""
    if event.lines is not None:
        return _cancelled_lines(order, event, event.lines, stock)
    if order.status in {"released", "restocked"} or order.is_cancelled_early():
        return Verdict("duplicate")
    if order.status == "pending":
        order.waiting.append(event)
        return Verdict("parked")
    status, left = order.status, order.remaining()
    order.cancelled = True
    move_to_required(order, stock)
    kind = "restocked" if status == "deducted" else "released"
    lines = left if status in {"deducted", "reserved"} else {}
    return Verdict("applied", None, [about_order(kind, order.order_id, event.id, lines)])


def cancel_units(order: OrderFacts, event: Event) -> None:
    """Record that the customer gave up the event's units; the stock does not move yet."""
    order.record_judged(event)
    order.cancelled_lines.update(event.lines or {})


def _cancelled_lines(order: OrderFacts, event: Event, lines: Lines, stock: Stock) -> Verdict:
    if (again := order.repeat_of(event)) is not None:
        return Verdict(again)
    if order.status in {"released", "restocked"}:
        return Verdict("duplicate")
    if order.status == "pending":
        order.waiting.append(event)
        return Verdict("parked")
    order.record_judged(event)
    if any(n > order.cancellable().get(p, 0) for p, n in lines.items()):
        return Verdict("refused", "cancellation_exceeds_order")
    kind = "restocked" if order.status == "deducted" else "released"
    placed = dict(order.placed)
    cancel_units(order, event)
    move_to_required(order, stock)
    moved = {p: sum(placed.get(p, (0, 0))) - sum(order.placed.get(p, (0, 0))) for p in lines}
    return Verdict("applied", None, [about_order(kind, order.order_id, event.id, moved)])
