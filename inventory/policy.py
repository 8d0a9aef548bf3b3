"""The policy that the settings describe, for every part of the program that moves stock."""

from domain.model import Policy
from inventory.settings import Settings


def policy_of(settings: Settings) -> Policy:
    """Return the policy that the settings describe."""
    return Policy(
        cart_ttl=settings.cart_reservation_ttl,
        order_ttl=settings.order_reservation_ttl,
        default_threshold=settings.default_low_stock_threshold,
        late_payment=settings.late_payment_policy,
        parked_event_ttl=settings.parked_event_ttl,
    )
