"""The rules of products: creation and adjustment."""

from dev.oracle.events import Event
from dev.oracle.stock import Stock
from dev.oracle.verdicts import Verdict


def created(event: Event, stock: Stock, default_threshold: int) -> Verdict:
    """Add a product, once."""
    product_id = event.data["product_id"]
    if product_id in stock.products:
        return Verdict("duplicate")
    threshold = event.data.get("low_stock_threshold")
    stock.create(
        product_id, default_threshold if threshold is None else threshold, event.data.get("initial_quantity", 0)
    )
    return Verdict("applied")


def adjusted(event: Event, stock: Stock) -> Verdict:
    """Change a product's stock, its threshold or both, but never to less than is reserved."""
    product_id = event.data["product_id"]
    product = stock.products.get(product_id)
    if product is None:
        return Verdict("refused", "unknown_product")
    expected = event.data.get("expected_version")
    if expected is not None and expected != product.version:
        return Verdict("refused", "stale_version")
    quantity = event.data.get("quantity", 0)
    operation = event.data.get("operation")
    after = product.on_hand
    if operation is not None:
        after = {"ADD": product.on_hand + quantity, "SUBTRACT": product.on_hand - quantity, "SET": quantity}[operation]
    if after < product.reserved:
        return Verdict("refused", "below_reserved")
    change = after - product.on_hand
    stock.move(product_id, "ADJUST", abs(change), 1 if change > 0 else -1, 0)
    threshold = event.data.get("low_stock_threshold")
    if threshold is not None:
        stock.set_threshold(product_id, threshold)
    return Verdict("applied")
