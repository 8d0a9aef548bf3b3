"""Keeps the cache up to date: what a commit changed is written to Redis soon after it.

Redis may be missing or fail at any moment. Losing it and getting it back is logged once each and counted in
`inventory_cache_errors_total`. Nothing else changes: pending values are kept, within a bound, and readers go to
PostgreSQL.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from typing import NamedTuple, TypeVar

from domain.model import Cart, Order, Product
from engine import metrics
from engine.reading import RETRY_SECONDS, CacheHealth
from engine.tasks import BatchResult
from storage import stock
from storage.cache import CACHE_ERRORS, Batch, Cache

logger = logging.getLogger(__name__)

# Maximum number of pending products, orders and carts each. Beyond it the oldest is dropped, and its value in Redis is
# stale until it expires there.
MAX_PENDING = 20_000
# Maximum number of values of each kind in one write, so that serializing them does not block the event loop for long.
MAX_PER_WRITE = 2_000
# Changes are collected for this long before a write: a hot product is then written once and not once per batch.
COLLECT_SECONDS = 0.1
# A value that has been pending for longer may only replace one that is in Redis: a newer one may have been written
# there meanwhile, and have expired.
LATE_SECONDS = 60.0

_Row = TypeVar("_Row", Product, Order, Cart)


class Refreshed(NamedTuple):
    """What one write did: values sent to Redis, and how many of them were newer than what it had."""

    sent: int
    written: int


class CacheRefresher:
    """Writes what commits changed: call `after_commit` for each report, and `run()` until cancelled."""

    def __init__(
        self,
        cache: Cache,
        clock: Callable[[], datetime],
        health: CacheHealth | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._health = health or CacheHealth()
        self._monotonic = monotonic
        self._changed = asyncio.Event()
        self._products: dict[str, Product] = {}
        self._orders: dict[str, Order] = {}
        self._carts: dict[str, Cart] = {}
        self._since: float | None = None

    def after_commit(self, result: BatchResult) -> None:
        """Queue what the batch changed; costs a few dictionary entries, never waits and never fails."""
        if not (result.products or result.orders or result.carts):
            return
        _merge(self._products, result.products)
        _merge(self._orders, result.orders)
        _merge(self._carts, result.carts)
        if self._since is None:
            self._since = self._monotonic()
        self._changed.set()

    async def run(self) -> None:
        """Write until cancelled; while Redis is lost, try again."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(RETRY_SECONDS if self._health.lost else COLLECT_SECONDS)
            try:
                await self.run_once()
            except Exception:
                # The cache is optional: not even a bug in it may stop the worker. The values are dropped.
                metrics.CACHE_ERRORS.inc()
                logger.exception("A bug in the worker: values could not be written to the cache and are dropped")

    async def run_once(self) -> Refreshed:
        """Write the oldest pending values; those that could not be written stay pending."""
        products, orders, carts = _take(self._products), _take(self._orders), _take(self._carts)
        since = self._since
        if not (self._products or self._orders or self._carts):
            self._since = None
            self._changed.clear()
        sent = len(products) + len(orders) + len(carts)
        if since is None or sent == 0:
            return Refreshed(0, 0)
        batch = Batch(
            [stock.level_of(product) for product in products.values()],
            [stock.reservation_of_order(order) for order in orders.values()],
            [stock.reservation_of_cart(cart) for cart in carts.values()],
            late=self._monotonic() - since > LATE_SECONDS,
        )
        try:
            written = await self._cache.write(batch, self._clock())
        except CACHE_ERRORS as error:
            self._health.failed(error)
            self._put_back(products, orders, carts, since)
            return Refreshed(sent, 0)
        self._health.answered()
        return Refreshed(sent, written)

    def _put_back(
        self, products: dict[str, Product], orders: dict[str, Order], carts: dict[str, Cart], since: float
    ) -> None:
        """Make the values pending again, ahead of those that were queued meanwhile."""
        _merge(products, self._products)
        _merge(orders, self._orders)
        _merge(carts, self._carts)
        self._products, self._orders, self._carts, self._since = products, orders, carts, since
        self._changed.set()


def _take(pending: dict[str, _Row]) -> dict[str, _Row]:
    """Remove and return the oldest pending values, as many as one write sends."""
    keys = list(islice(pending, MAX_PER_WRITE))
    return {key: pending.pop(key) for key in keys}


def _merge(pending: dict[str, _Row], changed: Mapping[str, _Row]) -> None:
    """Add the changed values within the bound, keeping the newest version of each.

    Two transactions of this process can report in another order than they committed in.
    """
    for key, row in changed.items():
        known = pending.get(key)
        if known is None or row.version >= known.version:
            pending[key] = row
    for _ in range(len(pending) - MAX_PENDING):
        del pending[next(iter(pending))]
