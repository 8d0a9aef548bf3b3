"""The rules of payments: a payment deducts what the order holds, or is answered with a shortfall."""

from dev.oracle.events import Event
from dev.oracle.order_facts import OrderFacts
from dev.oracle.placement import deduct, move_to_required
from dev.oracle.stock import Stock
from dev.oracle.verdicts import Short, Verdict, about_order, short_of_stock
from dev.oracle.waiting import paid_again, resolve, settle_early_cancellation


def paid(order: OrderFacts, event: Event, stock: Stock, late_payment: str) -> Verdict:
    """Apply a payment, or let it wait until the order is created."""
    waiting = [fact for fact in order.waiting if fact.topic == "payment.succeeded"]
    if order.paid or waiting:
        return _second_payment(order, event, waiting, stock)
    if order.status == "pending" and not order.is_cancelled_early():
        order.waiting.append(event)
        return Verdict("parked")
    order.paid = True
    order.record_payment(event)
    verdict = Verdict("applied")
    if order.status == "pending":
        settle_early_cancellation(order, verdict)
    if order.status == "reserved":
        deduct(order, stock, verdict, event.id)
    elif order.status == "expired" and late_payment == "reserve_again":
        _reserve_again(order, event, stock, verdict)
    else:
        reasons = {"rejected": "order_rejected", "expired": "reservation_expired"}
        reason = reasons.get(order.status, "order_cancelled")
        short = [Short(p, n, stock.available(p), reason) for p, n in order.remaining().items() if n]
        _refuse(order, event, verdict, reason, short)
    return resolve(order, stock, verdict)


def _second_payment(order: OrderFacts, event: Event, waiting: list[Event], stock: Stock) -> Verdict:
    """Refuse a second payment; it counts as a repeat unless both it and one before it have ids, and those differ."""
    known = order.payments | {fact.data.get("payment_id") for fact in waiting} - {None}
    if not known or event.data.get("payment_id") in {None, *known}:
        return Verdict("duplicate")
    if not order.paid:
        order.waiting.append(event)
        return Verdict("parked")
    return Verdict("refused", "already_paid", [paid_again(order, event, stock)])


def _reserve_again(order: OrderFacts, event: Event, stock: Stock, verdict: Verdict) -> None:
    short = stock.shortages(order.remaining(), {})
    if short:
        verdict.short_of = short_of_stock(short)
        _refuse(order, event, verdict, "reservation_expired", short)
        return
    order.expired = False
    move_to_required(order, stock)
    deduct(order, stock, verdict, event.id)


def _refuse(order: OrderFacts, event: Event, verdict: Verdict, reason: str, short: list[Short]) -> None:
    verdict.disposition, verdict.reason = "refused", reason
    verdict.outcomes.append(about_order("shortfall", order.order_id, event.id, {}, reason, short))
