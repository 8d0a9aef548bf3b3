"""`order.cancelled`: the hold of the order, or of the lines given, is released; deducted units are restocked.

A cancellation that comes before its order waits for it.
"""

from domain.commands import CancelOrder
from domain.model import Cause
from schemas.incoming import OrderCancelled
from workers.handlers.lines import sum_lines


def handle(data: OrderCancelled, cause: Cause) -> CancelOrder:
    """Return the command."""
    lines = None if data.items is None else sum_lines(data.items)
    return CancelOrder(cause, data.order_id, lines, data.reason, data.cancellation_id)
