"""The sweeper: expires holds that are due, and dead-letters waiting facts whose order did not come in time.

It goes by the low watermark, the event time up to which every partition has been read, and not by the
time of day: after an outage, the payments still in Kafka are read before any hold expires. The low
watermark is never ahead of the database's clock, and is that clock where nothing is consumed from Kafka.
Several sweepers can run at once; each skips the rows that another one has locked.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from domain.commands import ExpireCart, ExpireOrder, ForgetFact
from domain.model import Policy
from engine import metrics
from engine.backoff import Backoff
from engine.execute import execute
from engine.tasks import BatchResult, DeadlineTask, ExpiryTask, Task
from storage import dead_letters, load
from storage.database import Pool
from storage.errors import in_words, is_contention, is_unavailable

logger = logging.getLogger(__name__)

SWEEP_LIMIT = 500
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 5.0


class Swept(NamedTuple):
    """What one sweep did: how many holds expired, and how many waiting facts were dead-lettered."""

    expired: int
    dead_lettered: int


class Sweeper:
    """Sweeps every `interval_seconds`; one sweep takes at most 500 holds, the oldest, and 500 facts."""

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
        """Sweep until cancelled; while the database is unavailable, try again."""
        backoff = Backoff(FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS)
        while True:
            try:
                swept = await self.run_once()
            except Exception as error:
                if not (is_unavailable(error) or is_contention(error)):
                    raise
                logger.debug("The sweep failed (%s); trying again", in_words(error))
                await backoff.wait()
                continue
            backoff.reset()
            if swept.expired or swept.dead_lettered:
                logger.info("Expired %d holds, dead-lettered %d waiting facts", *swept)
            # A full sweep has probably left some behind.
            if max(swept) < SWEEP_LIMIT:
                await asyncio.sleep(self._interval_seconds)

    async def run_once(self) -> Swept:
        """Expire and dead-letter what is due now."""
        async with self._pool.acquire() as connection:
            due_before = await load.low_watermark(connection)
            holds = await load.due_holds(connection, due_before, SWEEP_LIMIT)
            facts = await dead_letters.overdue(connection, due_before, SWEEP_LIMIT)
        tasks: list[Task] = [
            *(
                ExpiryTask((ExpireOrder if hold.kind == "order" else ExpireCart)(hold.owner_id, due_before))
                for hold in holds
            ),
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
