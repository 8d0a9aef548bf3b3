"""The rules of orders: creation, with the facts that came before it, and expiry."""

from dev.oracle.carts import Cart, convert, own_hold
from dev.oracle.events import Event
from dev.oracle.order_facts import OrderFacts
from dev.oracle.placement import deduct, move_to_required
from dev.oracle.settings import Settings
from dev.oracle.stock import Stock
from dev.oracle.verdicts import Short, Verdict, about_order, short_of_stock
from dev.oracle.waiting import apply_early_facts, resolve


def created(order: OrderFacts, event: Event, stock: Stock, carts: dict[str, Cart], settings: Settings) -> Verdict:
    """Reserve all units of the order or none, in place of its cart's hold, and apply the facts that came before."""
    asked = dict(event.lines or {})
    if order.requested is not None:
        return Verdict("duplicate" if order.requested == asked else "conflict")
    order.requested = asked
    verdict = Verdict("applied")
    cart_id = event.data.get("cart_id")
    order.paid, cancelled_early = apply_early_facts(order, verdict)
    if cancelled_early or not any(order.remaining().values()):
        order.cancelled = cancelled_early
        convert(carts, cart_id, event.at, stock)
        verdict.outcomes.append(about_order("released", order.order_id, event.id, {}))
        return resolve(order, stock, verdict)
    short = stock.shortages(order.remaining(), own_hold(carts, cart_id, event.at))
    if short:
        _reject(order, event, verdict, short)
        return resolve(order, stock, verdict)
    convert(carts, cart_id, event.at, stock)
    move_to_required(order, stock)
    if order.paid:
        deduct(order, stock, verdict, event.id)
        return resolve(order, stock, verdict)
    order.expires_at = event.at + settings.order_ttl
    verdict.outcomes.append(about_order("reserved", order.order_id, event.id, order.remaining()))
    return verdict


def expire(order: OrderFacts, stock: Stock, cause: str) -> Verdict:
    """Release the order's hold."""
    held = order.remaining()
    order.expired = True
    move_to_required(order, stock)
    return Verdict("applied", None, [about_order("expired", order.order_id, cause, held)])


def _reject(order: OrderFacts, event: Event, verdict: Verdict, short: list[Short]) -> None:
    order.rejected = True
    kind = "shortfall" if order.paid else "rejected"
    verdict.disposition, verdict.reason = "refused", short[0].reason
    verdict.short_of = short_of_stock(short)
    verdict.outcomes.append(about_order(kind, order.order_id, event.id, {}, short[0].reason, short))
