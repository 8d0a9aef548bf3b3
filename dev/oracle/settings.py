"""The settings that the rules depend on."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Settings:
    """Times to live, the default threshold, and whether a payment after the expiry reserves again (`late_payment`)."""

    cart_ttl: timedelta = timedelta(minutes=30)
    order_ttl: timedelta = timedelta(minutes=15)
    default_threshold: int = 10
    late_payment: str = "reserve_again"

    def __deepcopy__(self, memo: object) -> "Settings":
        """Copies of a shop share their settings, which are immutable."""
        return self
