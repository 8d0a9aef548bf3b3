"""`cart.updated`: the cart's hold is changed to match the snapshot, as far as stock is available, and renewed.

The newest snapshot wins, by `version` where given, else by time. An empty cart releases its whole hold.
"""

from domain.commands import UpdateCart
from domain.model import Cause
from schemas.incoming import CartUpdated
from workers.handlers.lines import sum_lines


def handle(data: CartUpdated, cause: Cause) -> UpdateCart:
    """Return the command."""
    return UpdateCart(cause, data.cart_id, sum_lines(data.items), data.user_id, data.version)
