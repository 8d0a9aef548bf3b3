"""Watching products: the requests that wait for a change, and the one loop that asks the database for changes.

The loop runs only while somebody watches. It sends the versions that are known, and PostgreSQL answers with the
products that have newer ones. So it sees every commit of every process, its cost grows with the products watched and
not with the shop's traffic, and writers pay nothing. See decision 21.
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import NamedTuple

from api import metrics
from api.problems import ProblemError
from storage.database import Pool
from storage.errors import in_words, is_unavailable
from storage.stock import StockLevel, read_newer

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
# Distinct products that one process watches: the database looks each of them up at every poll.
MAX_WATCHED_PRODUCTS = 2_000


class WatchLimits(NamedTuple):
    """How many requests may watch at once, and how many distinct products they may name together."""

    watches: int
    products: int = MAX_WATCHED_PRODUCTS


class End(StrEnum):
    """Why a watch or a stream ended, as clients read it."""

    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - not a secret
    LIFETIME = "lifetime"
    DATABASE_UNAVAILABLE = "database_unavailable"
    CLOSING = "closing"
    CLIENT_GONE = "client_gone"


class WatchEndedError(Exception):
    """The watch cannot go on."""

    def __init__(self, reason: End) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Watch:
    """The products of one request, and their changes that it has not taken yet: at most one for each product."""

    __slots__ = ("_ended", "_newest", "_pending", "_woken", "product_ids")

    def __init__(self, product_ids: Collection[str]) -> None:
        self.product_ids = frozenset(product_ids)
        self._newest: dict[str, int] = {}
        self._pending: dict[str, StockLevel] = {}
        self._woken = asyncio.Event()
        self._ended: End | None = None

    def know(self, level: StockLevel) -> None:
        """Take note that the request has this level already; an older one is then no change."""
        if level.version > self._newest.get(level.product_id, 0):
            self._newest[level.product_id] = level.version
            self._pending.pop(level.product_id, None)

    def offer(self, level: StockLevel) -> None:
        """Keep the level for the request, in place of an older one, if it is newer than all that it has."""
        if level.version > self._newest.get(level.product_id, 0):
            self._newest[level.product_id] = level.version
            self._pending[level.product_id] = level
            self._woken.set()

    def end(self, reason: End) -> None:
        """End the watch."""
        self._ended = self._ended or reason
        self._woken.set()

    async def changes(self) -> list[StockLevel]:
        """Wait for changes and return them, each product in its newest version; raises WatchEndedError."""
        while not self._pending:
            if self._ended is not None:
                raise WatchEndedError(self._ended)
            self._woken.clear()
            await self._woken.wait()
        pending, self._pending = self._pending, {}
        return list(pending.values())


class Watchers:
    """All watches of this process."""

    def __init__(self, pool: Pool, limits: WatchLimits, wait_seconds: float) -> None:
        self._pool = pool
        self._limits = limits
        self._wait_seconds = wait_seconds
        self._by_product: dict[str, set[Watch]] = {}
        self._watches: set[Watch] = set()
        # The newest version of each watched product that the loop has seen; 0 before it has looked.
        self._seen: dict[str, int] = {}
        self._polling: asyncio.Task[None] | None = None
        self._closing = False

    def open(self, product_ids: Collection[str]) -> Watch:
        """Begin to watch, to be ended by `close`; raises ProblemError where too many watch already.

        What is committed after this call is not missed, so read the current state after it.
        """
        watch = Watch(product_ids)
        new = watch.product_ids - self._by_product.keys()
        full = len(self._watches) >= self._limits.watches or len(self._by_product) + len(new) > self._limits.products
        if full or self._closing:
            raise ProblemError("overloaded", "Please try again in a moment.")
        self._watches.add(watch)
        for product_id in watch.product_ids:
            self._by_product.setdefault(product_id, set()).add(watch)
            self._seen.setdefault(product_id, 0)
        self._count()
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll(), name="watching")
        return watch

    def close(self, watch: Watch) -> None:
        """Stop watching; closing twice does nothing."""
        if watch not in self._watches:
            return
        self._watches.remove(watch)
        for product_id in watch.product_ids:
            watching = self._by_product[product_id]
            watching.remove(watch)
            if not watching:
                del self._by_product[product_id], self._seen[product_id]
        self._count()

    @contextmanager
    def watch(self, product_ids: Collection[str]) -> Iterator[Watch]:
        """Watch inside the block."""
        watch = self.open(product_ids)
        try:
            yield watch
        finally:
            self.close(watch)

    async def stop(self) -> None:
        """End all watches, so that streams do not hold up the end of the process."""
        self._closing = True
        self._end_all(End.CLOSING)
        if self._polling is not None:
            self._polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._polling

    async def _poll(self) -> None:
        """Hand out changes until nobody watches any more, or the database does not answer."""
        while self._watches:
            await asyncio.sleep(POLL_SECONDS)
            try:
                async with asyncio.timeout(self._wait_seconds), self._pool.acquire() as connection:
                    changed = await read_newer(connection, self._seen)
            except Exception as error:
                if is_unavailable(error):
                    logger.warning("Streams end: the database does not answer (%s)", in_words(error))
                else:
                    logger.exception("Streams end, and that is a bug in the API")
                self._end_all(End.DATABASE_UNAVAILABLE)
                return
            for level in changed:
                # A product that nobody watches any more has no entry.
                if level.version > self._seen.get(level.product_id, level.version):
                    self._seen[level.product_id] = level.version
                for watch in self._by_product.get(level.product_id, ()):
                    watch.offer(level)

    def _end_all(self, reason: End) -> None:
        for watch in self._watches:
            watch.end(reason)

    def _count(self) -> None:
        metrics.WATCHES.set(len(self._watches))
        metrics.WATCHED_PRODUCTS.set(len(self._by_product))
