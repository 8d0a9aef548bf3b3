"""`product.created`: a product is added, with its initial stock; a repeat is a duplicate."""

from domain.commands import CreateProduct
from domain.model import Cause
from schemas.incoming import ProductCreated


def handle(data: ProductCreated, cause: Cause) -> CreateProduct:
    """Return the command."""
    return CreateProduct(cause, data.product_id, data.initial_quantity, data.low_stock_threshold)
