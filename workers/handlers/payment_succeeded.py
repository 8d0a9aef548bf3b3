"""`payment.succeeded`: what the order has reserved is deducted from the stock.

A payment before its order waits for it; one after the reservation expired follows the late payment
policy; one for an order that was rejected or cancelled is a shortfall.
"""

from domain.commands import PayOrder
from domain.model import Cause
from schemas.incoming import PaymentSucceeded


def handle(data: PaymentSucceeded, cause: Cause) -> PayOrder:
    """Return the command."""
    return PayOrder(cause, data.order_id)
