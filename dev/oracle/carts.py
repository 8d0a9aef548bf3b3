"""The rules of carts: a cart holds as much of its newest snapshot as is available, until an order converts it."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dev.oracle.events import Event
from dev.oracle.stock import Stock
from dev.oracle.verdicts import Lines, Short, Verdict, about_cart, short_of_stock, unknown_first


@dataclass
class Cart:
    """One cart: version and time of its newest snapshot, and its hold."""

    cart_id: str
    status: str = "active"
    held: dict[str, int] = field(default_factory=dict)
    version: int | None = None
    as_of: datetime | None = None
    converted_at: datetime | None = None
    expires_at: datetime | None = None

    def is_due(self, due_before: datetime) -> bool:
        """Say whether the cart's hold ended before then."""
        return self.status == "active" and self.expires_at is not None and self.expires_at < due_before


def updated(carts: dict[str, Cart], event: Event, stock: Stock, ttl: timedelta) -> Verdict:
    """Make the cart's hold what its snapshot asks for, as far as stock allows; a snapshot out of date is refused."""
    cart_id, wanted, version = event.data["cart_id"], event.lines or {}, event.data.get("version")
    cart = carts.get(cart_id) or Cart(cart_id)
    if _is_stale(cart, event.at, version):
        return Verdict("refused", "stale_version")
    carts[cart_id] = cart
    for product_id, held in list(cart.held.items()):
        stock.move(product_id, "RELEASE", max(0, held - wanted.get(product_id, 0)), 0, -1)
        cart.held[product_id] = min(held, wanted.get(product_id, 0))
    short = _reserve(cart, wanted, stock)
    cart.held = {product_id: held for product_id, held in cart.held.items() if held}
    cart.status = "active" if wanted else "emptied"
    cart.version, cart.as_of = version, event.at
    cart.expires_at = event.at + ttl if wanted else None
    verdict = Verdict("applied", short_of=short_of_stock(short))
    if short:
        verdict.outcomes.append(about_cart("cart_shortage", cart_id, event.id, cart.held, short[0].reason, short))
    return verdict


def own_hold(carts: dict[str, Cart], cart_id: str | None, at: datetime) -> Lines:
    """Return the hold that an order of that time takes over from its cart: none if the cart is newer than the order."""
    cart = None if cart_id is None else carts.get(cart_id)
    return cart.held if cart is not None and cart.as_of is not None and cart.as_of <= at else {}


def convert(carts: dict[str, Cart], cart_id: str | None, at: datetime, stock: Stock) -> None:
    """Mark the order's cart converted and release its hold, unless the cart is newer than the order."""
    if cart_id is None:
        return
    cart = carts.setdefault(cart_id, Cart(cart_id))
    cart.converted_at = max(cart.converted_at or at, at)
    if cart.as_of is None or cart.as_of <= at:
        _empty(cart, "converted", stock)
        cart.version, cart.as_of = None, at


def expire(cart: Cart, stock: Stock, cause: str) -> Verdict:
    """Release the cart's hold."""
    outcome = about_cart("expired", cart.cart_id, cause, cart.held)
    _empty(cart, "expired", stock)
    return Verdict("applied", None, [outcome])


def _reserve(cart: Cart, wanted: Lines, stock: Stock) -> list[Short]:
    """Add to the hold what is wanted and available, and return what is still short."""
    short: list[Short] = []
    for product_id, units in wanted.items():
        has = cart.held.get(product_id, 0)
        gets = min(units - has, stock.available(product_id))
        stock.move(product_id, "RESERVE", gets, 0, 1)
        cart.held[product_id] = has + gets
        if has + gets < units:
            reason = "insufficient_stock" if product_id in stock.products else "unknown_product"
            short.append(Short(product_id, units, has + gets, reason))
    return unknown_first(short)


def _empty(cart: Cart, status: str, stock: Stock) -> None:
    for product_id, held in cart.held.items():
        stock.move(product_id, "RELEASE", held, 0, -1)
    cart.held, cart.status, cart.expires_at = {}, status, None


def _is_stale(cart: Cart, at: datetime, version: int | None) -> bool:
    """Say whether the cart has applied something newer than a snapshot from `at` with `version`."""
    if cart.converted_at is not None and at <= cart.converted_at:
        return True
    if cart.version is not None and version is not None:
        return version <= cart.version
    return cart.as_of is not None and at < cart.as_of
