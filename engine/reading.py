"""Reading stock and reservations: from Redis where it has them, else from PostgreSQL.

Redis may be missing or fail at any moment. Losing it and getting it back is logged once each and counted in
`inventory_cache_errors_total`; meanwhile readers go to PostgreSQL.
"""

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import TypeVar

from engine import metrics
from storage import stock
from storage.cache import CACHE_ERRORS, MAX_LOW_STOCK, Batch, Cache
from storage.database import Pool
from storage.errors import in_words
from storage.stock import Reservation, StockLevel

logger = logging.getLogger(__name__)

# Interval between attempts while Redis is lost.
RETRY_SECONDS = 1.0

_Value = TypeVar("_Value")


class CacheHealth:
    """Whether Redis answers: logs when it is lost and when it is back, and keeps readers from waiting for it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lost_at: float | None = None
        self._next_attempt = 0.0

    @property
    def lost(self) -> bool:
        """Whether the last attempt failed."""
        return self._lost_at is not None

    @property
    def worth_trying(self) -> bool:
        """Whether Redis answered the last attempt, or the next attempt is due."""
        return not self.lost or self._monotonic() >= self._next_attempt

    def failed(self, error: BaseException) -> None:
        """Record a failed attempt."""
        metrics.CACHE_ERRORS.inc()
        now = self._monotonic()
        self._next_attempt = now + RETRY_SECONDS
        if self._lost_at is None:
            self._lost_at = now
            logger.warning("Redis is lost, continuing without the cache: %s", in_words(error))

    def answered(self) -> None:
        """Record a successful attempt."""
        if self._lost_at is not None:
            logger.info("Redis is back after %.1f s", self._monotonic() - self._lost_at)
            self._lost_at = None


class StockReader:
    """Reads through the cache: what it lacks is read from PostgreSQL and written to the cache for the next reader."""

    def __init__(
        self, pool: Pool, cache: Cache | None, clock: Callable[[], datetime], health: CacheHealth | None = None
    ) -> None:
        self._pool = pool
        self._cache = cache
        self._clock = clock
        self._health = health or CacheHealth()

    @property
    def lost(self) -> bool:
        """Whether the last attempt to use Redis failed."""
        return self._health.lost

    async def stock(self, product_ids: Collection[str], *, dated: bool = False) -> dict[str, StockLevel]:
        """Return the stock of the products that exist, in the order of `product_ids`.

        With `dated` every level has its `updated_at`: after a commit, the cache holds the new level without it until
        the first such read.
        """
        cached = await self._query(lambda cache: cache.stock(product_ids)) or {}
        if dated:
            cached = {product_id: level for product_id, level in cached.items() if level.updated_at is not None}
        missing = [product_id for product_id in product_ids if product_id not in cached]
        if missing:
            async with self._pool.acquire() as connection:
                read = await stock.read_stock(connection, missing)
            await self._fill(Batch(stock=list(read.values())))
            cached |= read
        return {product_id: cached[product_id] for product_id in product_ids if product_id in cached}

    async def low_stock(self) -> list[StockLevel]:
        """Return the products at or below their threshold, at most 10,000, in the order of their ids."""
        cached = await self._query(lambda cache: cache.low_stock())
        if cached is not None:
            return cached
        token = await self._query(lambda cache: cache.begin_low_stock())
        async with self._pool.acquire() as connection:
            read = await stock.read_low_stock(connection, MAX_LOW_STOCK + 1)
        if token is not None and len(read) <= MAX_LOW_STOCK:
            found = token
            await self._query(lambda cache: cache.finish_low_stock(found, read))
        return read[:MAX_LOW_STOCK]

    async def order(self, order_id: str) -> Reservation | None:
        """Return what the order holds, or None for an unknown one."""
        cached = await self._query(lambda cache: cache.order(order_id))
        if cached is not None:
            return cached
        async with self._pool.acquire() as connection:
            read = await stock.read_order(connection, order_id)
        if read is not None:
            await self._fill(Batch(orders=[read]))
        return read

    async def cart(self, cart_id: str) -> Reservation | None:
        """Return what the cart holds, or None for an unknown one."""
        cached = await self._query(lambda cache: cache.cart(cart_id))
        if cached is not None:
            return cached
        async with self._pool.acquire() as connection:
            read = await stock.read_cart(connection, cart_id)
        if read is not None:
            await self._fill(Batch(carts=[read]))
        return read

    async def _fill(self, batch: Batch) -> None:
        await self._query(lambda cache: cache.write(batch, self._clock()))

    async def _query(self, query: Callable[[Cache], Awaitable[_Value]]) -> _Value | None:
        """Query Redis; None when it is lost or does not know."""
        if self._cache is None or not self._health.worth_trying:
            return None
        try:
            answer = await query(self._cache)
        except CACHE_ERRORS as error:
            self._health.failed(error)
            return None
        self._health.answered()
        return answer


async def close_quietly(cache: Cache) -> None:
    """Close the connections to a Redis that may be lost."""
    with contextlib.suppress(*CACHE_ERRORS):
        await cache.close()
