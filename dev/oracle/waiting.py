"""The facts that wait on an order: applied when it is created, or when it is paid."""

from dev.oracle.cancellations import cancel_units
from dev.oracle.events import Event
from dev.oracle.order_facts import OrderFacts, is_whole_cancellation
from dev.oracle.refunds import apply_refund
from dev.oracle.stock import Stock
from dev.oracle.verdicts import Outcome, Short, Verdict, about_order


def apply_early_facts(order: OrderFacts, verdict: Verdict) -> tuple[bool, bool]:
    """Apply the facts that arrived before the order; returns whether it is paid, and whether cancelled whole."""
    asked = order.requested or {}
    again: list[Event] = []
    paid, cancelled = order.paid, order.cancelled
    for event in order.waiting:
        if event.topic == "order.cancelled" and event.lines is not None:
            cancel_units(order, event)
            fits = all(n >= 0 for n in order.cancellable().values()) and event.lines.keys() <= asked.keys()
            if not fits:
                order.cancelled_lines.subtract(event.lines)
            reason = None if fits else "cancellation_exceeds_order"
            verdict.resolved.append((event.id, "applied" if fits else "refused", reason))
        elif event.topic == "payment.succeeded" and paid:
            again.append(event)
        elif event.topic != "payment.refunded":
            order.record_payment(event)
            paid = paid or event.topic == "payment.succeeded"
            cancelled = cancelled or event.topic == "order.cancelled"
            verdict.resolved.append((event.id, "applied", None))
    order.waiting = again + [event for event in order.waiting if event.topic == "payment.refunded"]
    return paid, cancelled


def settle_early_cancellation(order: OrderFacts, verdict: Verdict) -> None:
    """Resolve the cancellation that waits on a pending order: its payment has been answered with a shortfall."""
    verdict.resolved += [(event.id, "applied", None) for event in order.waiting if is_whole_cancellation(event)]
    order.waiting = [event for event in order.waiting if not is_whole_cancellation(event)]
    order.cancelled = True


def resolve(order: OrderFacts, stock: Stock, verdict: Verdict) -> Verdict:
    """Judge the second payments and refunds that wait on the order, once it is created and paid or rejected."""
    if order.requested is not None and (order.paid or order.rejected):
        for event in order.waiting:
            if event.topic == "payment.succeeded":
                verdict.outcomes.append(paid_again(order, event, stock))
                verdict.resolved.append((event.id, "refused", "already_paid"))
                continue
            reason = apply_refund(order, event, stock, verdict)
            verdict.resolved.append((event.id, "refused" if reason else "applied", reason))
        order.waiting = []
    return verdict


def paid_again(order: OrderFacts, event: Event, stock: Stock) -> Outcome:
    """Return the shortfall of a second payment: the customer paid once more for the units that they keep."""
    order.record_payment(event)
    kept = {} if order.cancelled and not order.rejected else order.remaining()
    short = [Short(p, n, stock.available(p), "already_paid") for p, n in kept.items() if n]
    return about_order("shortfall", order.order_id, event.id, {}, "already_paid", short)
