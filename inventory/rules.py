"""The rules that the settings describe, for every part of the program that moves stock."""

from domain.model import LatePaymentPolicy, Policy
from engine.execute import Rules
from inventory.settings import Settings


def rules_of(settings: Settings) -> Rules:
    """Return the rules that the settings describe."""
    return Rules(
        Policy(
            cart_ttl=settings.cart_reservation_ttl,
            order_ttl=settings.order_reservation_ttl,
            default_threshold=settings.default_low_stock_threshold,
            late_payment=LatePaymentPolicy(settings.late_payment_policy),
        ),
        settings.parked_event_ttl,
    )
