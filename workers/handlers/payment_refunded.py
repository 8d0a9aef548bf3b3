"""`payment.refunded`: refunded pieces go back on the shelf, or with `restock` false never do.

A refund before the order is created and paid waits; one beyond what was deducted is refused.
"""

from domain.commands import RefundOrder
from domain.model import Cause
from schemas.incoming import PaymentRefunded
from workers.handlers.lines import sum_lines


def handle(data: PaymentRefunded, cause: Cause) -> RefundOrder:
    """Return the command."""
    return RefundOrder(cause, data.order_id, data.refund_id, sum_lines(data.items), data.restock)
