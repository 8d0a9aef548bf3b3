"""`payment.refunded`: refunded units are restocked, or with `restock` false written off for good.

Units that were cancelled before are put back once. A refund that comes before its order is created and paid waits. One
beyond what was ordered is refused.
"""

from domain.commands import RefundOrder
from domain.model import Cause
from schemas.incoming import PaymentRefunded
from workers.handlers.lines import sum_lines


def handle(data: PaymentRefunded, cause: Cause) -> RefundOrder:
    """Return the command."""
    return RefundOrder(cause, data.order_id, data.refund_id, sum_lines(data.items), data.restock, data.returned)
