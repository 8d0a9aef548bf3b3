"""`payment.succeeded`: what the order holds is deducted from the stock on hand.

A payment that comes before its order waits for it. After the hold expired, the late payment policy decides. For an
order that was rejected or cancelled it is a shortfall, and so is a second payment with another payment id.
"""

from domain.commands import PayOrder
from domain.model import Cause
from schemas.incoming import PaymentSucceeded


def handle(data: PaymentSucceeded, cause: Cause) -> PayOrder:
    """Return the command."""
    return PayOrder(cause, data.order_id, data.payment_id)
