"""`order.created`: all lines are reserved, or none; the order takes over the hold of its cart.

An order that is already paid is deducted at once. One that is already cancelled reserves nothing.
"""

from domain.commands import CreateOrder
from domain.model import Cause
from schemas.incoming import OrderCreated
from workers.handlers.lines import sum_lines


def handle(data: OrderCreated, cause: Cause) -> CreateOrder:
    """Return the command."""
    return CreateOrder(cause, data.order_id, sum_lines(data.items), data.cart_id, data.user_id)
