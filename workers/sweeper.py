"""The sweeper: drops holds that are due and gives up facts whose order never came, by the stream's clock.

The clock is the event time up to which every partition has been read (`stream_progress`), not the
wall's: after an outage the payments that wait in Kafka are read before any hold is dropped.
Many sweepers work side by side; rows that one is working on are left out by the others.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from domain.commands import ExpireCart, ExpireOrder, ForgetFact
from domain.model import Policy
from engine import metrics
from engine.execute import execute
from engine.tasks import BatchResult, DeadlineTask, ExpiryTask, Task
from storage import dead_letters, load
from storage.database import Pool
from storage.errors import is_contention, is_unavailable

logger = logging.getLogger(__name__)

SWEEP_LIMIT = 500


class Swept(NamedTuple):
    """What one look found: holds dropped, facts given up."""

    expired: int
    given_up: int


class Sweeper:
    """Looks every `interval_seconds`; `run_once()` is one look of at most 500 orders, carts and facts each."""

    def __init__(
        self,
        pool: Pool,
        policy: Policy,
        interval_seconds: float,
        clock: Callable[[], datetime],
        after_commit: Callable[[BatchResult], None],
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._after_commit = after_commit

    async def run(self) -> None:
        """Sweep for as long as the task lives; a database that is away is waited for."""
        while True:
            try:
                swept = await self.run_once()
                if swept.expired or swept.given_up:
                    logger.info("Dropped %d expired holds, gave up %d early facts", *swept)
                if max(swept) >= SWEEP_LIMIT:
                    continue
            except Exception as error:
                if not (is_unavailable(error) or is_contention(error)):
                    raise
                logger.debug("Not swept: %s", error)
            await asyncio.sleep(self._interval_seconds)

    async def run_once(self) -> Swept:
        """Drop what is due now and return how much that was."""
        async with self._pool.acquire() as connection:
            low_watermark = await load.low_watermark(connection)
            if low_watermark is None:
                return Swept(0, 0)
            orders = await load.due_orders(connection, low_watermark, SWEEP_LIMIT)
            carts = await load.due_carts(connection, low_watermark, SWEEP_LIMIT)
            facts = await dead_letters.overdue(connection, low_watermark, SWEEP_LIMIT)
        tasks: list[Task] = [
            *(ExpiryTask(ExpireOrder(order_id, low_watermark)) for order_id in orders),
            *(ExpiryTask(ExpireCart(cart_id, low_watermark)) for cart_id in carts),
            *(
                DeadlineTask(ForgetFact(fact.order_id, fact.source, fact.event_id), fact.record, fact.event_type)
                for fact in facts
            ),
        ]
        if not tasks:
            return Swept(0, 0)
        result = await execute(self._pool, tasks, self._policy, self._clock(), skip_locked=True)
        self._after_commit(result)
        for letter in result.dead_letters:
            metrics.DEAD_LETTERS.labels(letter.record.topic, letter.reason).inc()
        return Swept(result.expired, len(result.dead_letters))
