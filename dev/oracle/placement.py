"""One rule for all orders: after every event the stock is moved to what the order's facts require."""

from dev.oracle.order_facts import OrderFacts
from dev.oracle.stock import Stock
from dev.oracle.verdicts import Verdict, about_order


def move_to_required(order: OrderFacts, stock: Stock) -> None:
    """Move the order's units from where they are placed to where its facts require them."""
    for product_id, (held, gone) in order.required().items():
        was_held, was_gone = order.placed.get(product_id, (0, 0))
        order.placed[product_id] = (held, gone)
        leaves, returns = max(0, gone - was_gone), max(0, was_gone - gone)
        from_hold = min(leaves, max(0, was_held - held))
        stock.move(product_id, "OUT", from_hold, -1, -1)
        stock.move(product_id, "OUT", leaves - from_hold, -1, 0)
        stock.move(product_id, "IN", returns, 1, 0)
        stock.move(product_id, "RESERVE", held - was_held, 0, 1)
        stock.move(product_id, "RELEASE", was_held - from_hold - held, 0, -1)


def deduct(order: OrderFacts, stock: Stock, verdict: Verdict, cause: str) -> None:
    """Take the paid units off the stock on hand and publish it."""
    order.deducted = True
    move_to_required(order, stock)
    verdict.outcomes.append(about_order("deducted", order.order_id, cause, order.remaining()))
