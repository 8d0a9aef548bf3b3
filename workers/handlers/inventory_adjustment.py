"""`inventory.adjustment`: an operator corrects the stock on hand, or changes the low-stock threshold.

No adjustment may take the stock on hand below what is reserved. `expected_version` makes SET a compare-and-set.
"""

from domain.commands import AdjustStock
from domain.model import Cause, Operation
from schemas.incoming import InventoryAdjustment


def handle(data: InventoryAdjustment, cause: Cause) -> AdjustStock:
    """Return the command."""
    return AdjustStock(
        cause,
        data.product_id,
        None if data.operation is None else Operation(data.operation),
        data.quantity or 0,
        data.low_stock_threshold,
        data.reason,
        data.operator,
        data.expected_version,
    )
