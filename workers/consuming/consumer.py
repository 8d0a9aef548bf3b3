"""The consumer: batches of raw records from all incoming topics, through `execute`, then their offsets.

    records -> decoded while the batch before is applied -> flood breaker -> one transaction -> offsets

FastStream and aiokafka, used as they are, lose records on errors, rebalances and positions that Kafka no longer has.
The modules beside this one replace that behaviour, and each says why.
"""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from aiokafka import ConsumerRecord, TopicPartition

from domain.model import Policy
from engine.crash import crash_on_bug
from engine.tasks import BatchResult
from storage.database import Pool
from workers.consuming.anchoring import AnchorKeeper
from workers.consuming.applying import BatchApplier
from workers.consuming.batches import Batch, decode_batch, merge_by_timestamp
from workers.consuming.breaker import FloodBreaker
from workers.consuming.client import RecordClient
from workers.consuming.clock import DatabaseClock
from workers.consuming.lag import LagMeter
from workers.consuming.offsets import OffsetCommitter, next_offsets
from workers.consuming.placement import Placement
from workers.consuming.progress import ProgressRecorder
from workers.consuming.rebalances import RebalanceListener
from workers.consuming.records import InvalidRecord
from workers.consuming.status import ConsumerStatus
from workers.consuming.subscription import Broker, ConsumerOptions, Subscription
from workers.consuming.watermarks import WatermarkTracker

logger = logging.getLogger(__name__)

# Longest a running batch delays the next fetch. Keep below every liveness timeout.
MAX_FETCH_DELAY_SECONDS = 0.1
JOINING_LIMIT_SECONDS = 300.0


class Consumer:
    """Applies each record of the assigned partitions exactly once, in batches.

    `after_commit` is called with each result once its transaction is committed.
    """

    def __init__(
        self,
        pool: Pool,
        policy: Policy,
        options: ConsumerOptions,
        breaker: FloodBreaker,
        clock: Callable[[], datetime],
        after_commit: Callable[[BatchResult], None],
    ) -> None:
        self._options = options
        self._breaker = breaker
        self._clock = clock
        self._after_commit = after_commit
        self._stopping = False
        self._paused_because: str | None = None
        self._subscription = Subscription()
        self._anchors = AnchorKeeper(options.anchor_lifetime_seconds, self._get_client)
        self._applier = BatchApplier(pool, policy, clock, self._anchors, self._finish)
        self._offsets = OffsetCommitter(self._get_client)
        self._lag = LagMeter(options.prefix)
        database_clock = DatabaseClock(clock)
        self._progress = ProgressRecorder(
            pool,
            WatermarkTracker(options.prefix, database_clock.to_database),
            self._lag,
            self._anchors,
            database_clock,
            options.full_topics(),
            self._get_client,
        )
        self._placement = Placement(pool, options.prefix, self._anchors, self._applier.finished)
        self._rebalances = RebalanceListener(
            options.rebalance_timeout_ms / 1000,
            self._get_client,
            self._applier,
            self._offsets,
            self._progress,
            self._placement,
        )

    # --- starting, stopping, status -------------------------------------------------------------

    def subscribe(self, broker: Broker) -> None:
        """Register the one batch subscriber over all topics; FastStream starts it with the broker."""
        make_client = partial(RecordClient, self._batch_done, self._out_of_range)
        self._subscription.register(broker, self._options, self.on_batch, make_client, self._rebalances)

    async def drain(self) -> None:
        """Begin no more batches; finish the one in flight, unless it waits for an unavailable database."""
        self._stopping = True
        self._applier.stop()
        self._progress.stop()
        await self._applier.finished()
        await self._offsets.flush()

    def status(self) -> ConsumerStatus:
        """Return what liveness and readiness need to know."""
        client = self.client
        joining_since = self._rebalances.joining_since
        return ConsumerStatus(
            assigned=self._rebalances.assigned,
            joining_seconds=None if joining_since is None else time.monotonic() - joining_since,
            joining_limit_seconds=max(JOINING_LIMIT_SECONDS, 2 * self._options.rebalance_timeout_ms / 1000),
            paused_because=self._paused_because,
            waits_because=self._applier.waits_because or self._placement.waits_because,
            poll_age=None if client is None else client.poll_age(),
            progress_age=self._lag.progress_age(),
            lag_records=self._lag.records,
        )

    @property
    def client(self) -> RecordClient | None:
        """The Kafka client while FastStream runs it."""
        return self._subscription.client

    # --- one batch ------------------------------------------------------------------------------

    async def on_batch(self, records: list[ConsumerRecord]) -> None:
        """Decode a batch while the one before it is in the database, then start to apply it in its turn.

        FastStream swallows whatever a handler raises and goes on behind the lost batch, so nothing is ever raised
        here: a bug ends the process, which is restarted, and the batch is redelivered.
        """
        with crash_on_bug("A bug stopped this worker; its batch will be redelivered"):
            self._progress.batch_received()
            generation = self._rebalances.generation
            now = self._clock()
            records = merge_by_timestamp(records)
            items = await decode_batch(records, self._options.prefix, now)
            await self._applier.finished()
            idle_rows = await self._progress.idle_rows(records)
            # No await from here to `start`: a stop or a rebalance would find no batch in flight to wait for.
            if self._stopping or generation != self._rebalances.generation:
                # Neither applied nor committed: the next owner of the partitions reads it again.
                self._progress.batch_handled()
                return
            reason = self._breaker.admit(
                [(record.topic, isinstance(item, InvalidRecord)) for record, item in zip(records, items, strict=True)]
            )
            if reason is not None:
                self._pause(records, reason)
                self._progress.batch_handled()
                return
            progress = [*self._progress.batch_rows(records, items, now), *idle_rows]
            self._applier.start(Batch(records, items, progress, now))

    def _finish(self, batch: Batch, result: BatchResult | None) -> None:
        """Record a batch that is committed, and commit its offsets; `result` is None when it was abandoned."""
        if result is not None:
            self._after_commit(result)
            offsets = next_offsets(batch.records)
            self._progress.batch_applied(batch.progress, offsets)
            self._offsets.applied(offsets)
        self._progress.batch_handled()

    async def _batch_done(self) -> None:
        """Return when it is time to fetch again."""
        await self._applier.finished_within(MAX_FETCH_DELAY_SECONDS)

    async def _out_of_range(self, client: RecordClient, positions: Mapping[TopicPartition, int]) -> None:
        """Move partitions past records that Kafka no longer has."""
        with crash_on_bug("A bug stopped this worker as it looked for the next record of a partition"):
            moved = await self._placement.place_again(client, positions)
            self._progress.moved(moved)

    def _pause(self, records: list[ConsumerRecord], reason: str) -> None:
        """Put the batch back and read no more until an operator has looked and restarted the worker."""
        self._paused_because = reason
        client = self.client
        if client is not None:
            client.put_back(records)
            client.suspend()
        logger.error(
            "Consumption is paused: %s. Fix the producer or this deployment, then restart the worker. If the records "
            "really are all bad, raise INVENTORY_DEAD_LETTER_BREAKER_CONSECUTIVE and _RATIO and restart",
            reason,
        )

    # --- watermarks of idle partitions ----------------------------------------------------------

    async def run_ticks(self) -> None:
        """Keep the watermarks of idle partitions moving until cancelled."""
        await self._progress.run_ticks()

    async def tick(self) -> None:
        """Do what `run_ticks` does once a second."""
        await self._progress.tick()

    def _get_client(self) -> RecordClient | None:
        return self.client
