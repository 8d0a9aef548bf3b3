"""Values for the tests of the cache, and waiting for what reaches it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from domain.model import CartStatus, OrderStatus, Product, StockStatus
from storage.cache import CACHE_ERRORS, Cache
from storage.stock import Reservation, StockLevel

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
BOUND_SECONDS = 30.0


def level(product_id: str, version: int, *, low: bool = False) -> StockLevel:
    """Return a product's stock level."""
    return StockLevel(product_id, 9, 0, 9, 10 if low else 0, StockStatus.LOW if low else StockStatus.OK, version)


def undated(levels: dict[str, StockLevel]) -> dict[str, StockLevel]:
    """Return levels without the time of their change, which a commit does not leave in the cache."""
    return {product_id: level._replace(updated_at=None) for product_id, level in levels.items()}


def product(product_id: str, version: int) -> Product:
    """Return the domain's product."""
    return Product(product_id, 9, 0, 0, StockStatus.OK, version, version)


def reservation(
    owner_id: str,
    version: int,
    *,
    status: OrderStatus | CartStatus = OrderStatus.RESERVED,
    lines: dict[str, int] | None = None,
    expires_at: datetime | None = None,
) -> Reservation:
    """Return what an order or a cart holds."""
    return Reservation(owner_id, "u", status, {"apple": 2} if lines is None else lines, expires_at, version)


async def is_cached(cache: Cache, product_id: str, available: int) -> bool:
    """Is a product in the cache with so many available? While Redis is away it is not."""
    try:
        found = await cache.stock([product_id])
    except CACHE_ERRORS:
        return False
    return product_id in found and found[product_id].available == available


async def is_true(condition: bool) -> bool:  # noqa: FBT001 - the answer itself
    """Answer as a condition that waits would."""
    return condition


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait, with a bound, until the condition holds."""
    async with asyncio.timeout(BOUND_SECONDS):
        while not await condition():  # noqa: ASYNC110 - Redis does not call back
            await asyncio.sleep(0.01)
