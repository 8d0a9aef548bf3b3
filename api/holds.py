"""What a cart or an order holds, as the API shows it, and who may see or change it."""

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, Field

from api.auth import Principal
from api.problems import ProblemError

OWN_CART_PREFIX = "user:"


class Line(BaseModel):
    """A product and how many units of it are held."""

    product_id: str = Field(description="The product.")
    quantity: int = Field(description="How many units.")


def lines_json(lines: Mapping[str, int]) -> list[dict[str, object]]:
    """Return lines as the API shows them."""
    return [{"product_id": product_id, "quantity": quantity} for product_id, quantity in lines.items() if quantity]


def remaining_minutes(expires_at: datetime | None, now: datetime) -> int:
    """Return how many minutes are left, begun ones included."""
    if expires_at is None or expires_at <= now:
        return 0
    return -int(-(expires_at - now).total_seconds() // 60)


def is_expired(status: str, expires_at: datetime | None, now: datetime) -> bool:
    """Say whether a hold's time is over, whether or not it was swept already."""
    return status == "expired" or (expires_at is not None and expires_at <= now)


def user_for(principal: Principal, user_id: str | None) -> str | None:
    """Return the user that a request is for: the caller itself; services and admins may name another."""
    if principal.acts_for_anyone:
        return user_id
    if user_id is not None and user_id != principal.subject:
        raise ProblemError("missing_role", "You may not do this for somebody else.")
    return principal.subject


def owner_of(principal: Principal) -> str | None:
    """Return the one user whose carts and orders the caller may touch; None may touch anybody's."""
    return None if principal.acts_for_anyone else principal.subject


def cart_id_for(principal: Principal, cart_id: str | None, user_id: str | None) -> str:
    """Return the cart that is meant: the one named, or the user's own.

    A user cannot name a cart that is another's own, even before that other has one.
    """
    own = OWN_CART_PREFIX + (user_id or principal.subject)
    if cart_id is None:
        return own
    if not principal.acts_for_anyone and cart_id.startswith(OWN_CART_PREFIX) and cart_id != own:
        raise unknown_cart()
    return cart_id


def unknown_cart() -> ProblemError:
    """Return the answer for a cart that does not exist, or not for this caller."""
    return ProblemError("unknown_cart", "There is no such cart.")


def unknown_order() -> ProblemError:
    """Return the answer for an order that does not exist, or not for this caller."""
    return ProblemError("unknown_order", "There is no such order.")
