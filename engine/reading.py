"""Reading stock and reservations: from Redis where it has them, else from PostgreSQL.

Redis may be missing or fail at any moment. It is logged once when Redis is lost and once when it is back, counted in
`inventory_cache_errors_total`, and readers go to PostgreSQL meanwhile.
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

# While Redis is away it is asked this seldom.
RETRY_SECONDS = 1.0

_Value = TypeVar("_Value")


class CacheHealth:
    """Whether Redis answers: says once when it is lost and once when it is back, and spares readers the wait."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lost_at: float | None = None
        self._ask_again_at = 0.0

    @property
    def lost(self) -> bool:
        """Whether the last attempt failed."""
        return self._lost_at is not None

    @property
    def worth_asking(self) -> bool:
        """Whether Redis answered last time, or has not been asked for a while."""
        return not self.lost or self._monotonic() >= self._ask_again_at

    def failed(self, error: BaseException) -> None:
        """Note that Redis failed."""
        metrics.CACHE_ERRORS.inc()
        now = self._monotonic()
        self._ask_again_at = now + RETRY_SECONDS
        if self._lost_at is None:
            self._lost_at = now
            logger.warning("Redis is lost, going on without the cache: %s", in_words(error))

    def answered(self) -> None:
        """Note that Redis answered."""
        if self._lost_at is not None:
            logger.info("Redis is back after %.1f s", self._monotonic() - self._lost_at)
            self._lost_at = None


class StockReader:
    """Reads through the cache: what it lacks comes from PostgreSQL and is left there for the next reader."""

    def __init__(
        self, pool: Pool, cache: Cache | None, clock: Callable[[], datetime], health: CacheHealth | None = None
    ) -> None:
        self._pool = pool
        self._cache = cache
        self._clock = clock
        self._health = health or CacheHealth()

    @property
    def lost(self) -> bool:
        """Whether Redis failed when it was last asked."""
        return self._health.lost

    async def stock(self, product_ids: Collection[str]) -> dict[str, StockLevel]:
        """Return the stock of those products that exist, in the order of `product_ids`."""
        cached = await self._ask(lambda cache: cache.stock(product_ids)) or {}
        missing = [product_id for product_id in product_ids if product_id not in cached]
        if missing:
            async with self._pool.acquire() as connection:
                read = await stock.read_stock(connection, missing)
            await self._fill(Batch(stock=list(read.values())))
            cached |= read
        return {product_id: cached[product_id] for product_id in product_ids if product_id in cached}

    async def low_stock(self) -> list[StockLevel]:
        """Return the products at or below their threshold, at most 10,000, in the order of their ids."""
        cached = await self._ask(lambda cache: cache.low_stock())
        if cached is not None:
            return cached
        token = await self._ask(lambda cache: cache.begin_low_stock())
        async with self._pool.acquire() as connection:
            read = await stock.read_low_stock(connection, MAX_LOW_STOCK + 1)
        if token is not None and len(read) <= MAX_LOW_STOCK:
            found = token
            await self._ask(lambda cache: cache.finish_low_stock(found, read))
        return read[:MAX_LOW_STOCK]

    async def order(self, order_id: str) -> Reservation | None:
        """Return what the order holds, or None for one never heard of."""
        cached = await self._ask(lambda cache: cache.order(order_id))
        if cached is not None:
            return cached
        async with self._pool.acquire() as connection:
            read = await stock.read_order(connection, order_id)
        if read is not None:
            await self._fill(Batch(orders=[read]))
        return read

    async def cart(self, cart_id: str) -> Reservation | None:
        """Return what the cart holds, or None for one never heard of."""
        cached = await self._ask(lambda cache: cache.cart(cart_id))
        if cached is not None:
            return cached
        async with self._pool.acquire() as connection:
            read = await stock.read_cart(connection, cart_id)
        if read is not None:
            await self._fill(Batch(carts=[read]))
        return read

    async def _fill(self, batch: Batch) -> None:
        await self._ask(lambda cache: cache.write(batch, self._clock()))

    async def _ask(self, question: Callable[[Cache], Awaitable[_Value]]) -> _Value | None:
        """Ask Redis; None where there is no answer."""
        if self._cache is None or not self._health.worth_asking:
            return None
        try:
            answer = await question(self._cache)
        except CACHE_ERRORS as error:
            self._health.failed(error)
            return None
        self._health.answered()
        return answer


async def close_quietly(cache: Cache) -> None:
    """Close the connections to a Redis that may be gone."""
    with contextlib.suppress(*CACHE_ERRORS):
        await cache.close()
