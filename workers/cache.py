"""What the cache means to the worker: it is told after each commit, read where it helps, and never waited for.

Redis may be missing or die at any moment. That is logged once when it is lost and once when it is back, counted in
`inventory_cache_errors_total`, and changes nothing else: writes wait their turn, readers ask PostgreSQL.
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

# What one process remembers to write, of products, orders and carts each; beyond that the oldest is dropped, and
# the value in Redis is stale until its time is up.
MAX_WAITING = 20_000
# What one step writes of each, so that no step keeps the event loop for long.
MAX_STEP = 2_000
# Changes of this long are written together: a hot product is written once, not once a batch.
COLLECT_SECONDS = 0.1
# After this long a value may be older than what has since come and gone in Redis: it only replaces older ones.
LATE_SECONDS = 60.0

_Row = TypeVar("_Row", Product, Order, Cart)


class Refreshed(NamedTuple):
    """What one step did: values sent to Redis, and how many of them were newer than what it had."""

    sent: int
    written: int


class CacheRefresher:
    """Writes what commits changed; `after_commit` for each report, `run()` until cancelled."""

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
        """Remember what the batch changed; costs a few dictionary entries, never waits and never fails."""
        if not (result.products or result.orders or result.carts):
            return
        _merge(self._products, result.products)
        _merge(self._orders, result.orders)
        _merge(self._carts, result.carts)
        if self._since is None:
            self._since = self._monotonic()
        self._changed.set()

    async def run(self) -> None:
        """Write for as long as the task lives; Redis being away is waited for."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(RETRY_SECONDS if self._health.lost else COLLECT_SECONDS)
            try:
                await self.run_once()
            except Exception:
                # The cache is a convenience: not even a bug in it may stop the worker. The values are dropped.
                metrics.CACHE_ERRORS.inc()
                logger.exception("Values could not be written to the cache, and that is a bug in the worker")

    async def run_once(self) -> Refreshed:
        """Write the oldest of what waits, a step; what could not be written waits on."""
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
        """Let the values wait on, before those that came meanwhile."""
        _merge(products, self._products)
        _merge(orders, self._orders)
        _merge(carts, self._carts)
        self._products, self._orders, self._carts, self._since = products, orders, carts, since
        self._changed.set()


def _take(waiting: dict[str, _Row]) -> dict[str, _Row]:
    """Take the oldest out of what waits, as much as one step writes."""
    keys = list(islice(waiting, MAX_STEP))
    return {key: waiting.pop(key) for key in keys}


def _merge(waiting: dict[str, _Row], changed: Mapping[str, _Row]) -> None:
    """Add what changed, the newest version of each, within the bound.

    Two transactions of this process can report in another order than they committed in.
    """
    for key, row in changed.items():
        known = waiting.get(key)
        if known is None or row.version >= known.version:
            waiting[key] = row
    for _ in range(len(waiting) - MAX_WAITING):
        del waiting[next(iter(waiting))]
