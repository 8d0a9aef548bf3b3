"""Writing watermarks: which rows of `stream_progress` go with a batch, and which are written between batches."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from aiokafka import ConsumerRecord, TopicPartition

from engine.anchor import DatabaseWentBackError, check_anchor
from storage import save
from storage.database import Pool
from storage.errors import in_words, is_contention, is_unavailable
from storage.save import PartitionProgress
from workers.consuming.anchoring import AnchorKeeper
from workers.consuming.client import RecordClient
from workers.consuming.clock import DatabaseClock
from workers.consuming.lag import LagMeter
from workers.consuming.offsets import Offsets, next_offsets
from workers.consuming.records import DecodedRecord, InvalidRecord
from workers.consuming.watermarks import WatermarkTracker
from workers.kafka_errors import is_kafka_trouble

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
REGISTER_TIMEOUT_SECONDS = 5.0
# Minimum interval between batches that write watermarks: a small batch touches as many partitions as a large one.
WRITE_INTERVAL_SECONDS = 0.1


class ProgressRecorder:
    """Keeps `stream_progress` up to date: rows for the batches' own transactions, and ticks for idle partitions."""

    def __init__(  # noqa: PLR0913, PLR0917 - what watermarks depend on
        self,
        pool: Pool,
        watermarks: WatermarkTracker,
        lag: LagMeter,
        anchors: AnchorKeeper,
        clock: DatabaseClock,
        topics: Sequence[str],
        get_client: Callable[[], RecordClient | None],
    ) -> None:
        self._pool = pool
        self._watermarks = watermarks
        self._lag = lag
        self._anchors = anchors
        self._clock = clock
        self._topics = topics
        self._get_client = get_client
        self._received = 0
        self._handled = 0
        self._received_at_tick = 0
        self._stopping = False
        self._next_idle_rows = 0.0
        self._next_batch_rows = 0.0

    # --- with batches ---------------------------------------------------------------------------

    def batch_received(self) -> None:
        """Suspend ticks: from here until the batch is handled, positions are ahead of what was processed."""
        self._received += 1

    def batch_handled(self) -> None:
        """Allow ticks again: the batch was applied, or dropped for good."""
        self._handled += 1

    def batch_rows(
        self, records: Sequence[ConsumerRecord], items: Sequence[DecodedRecord | InvalidRecord], now: datetime
    ) -> list[PartitionProgress]:
        """Return rows for the batch's partitions, at a bounded rate; a watermark that is late expires nothing early."""
        started = time.monotonic()
        if started < self._next_batch_rows:
            return self._watermarks.unread_rows()
        self._next_batch_rows = started + WRITE_INTERVAL_SECONDS
        client = self._get_client()
        self._list_partitions(client)
        rows = self._watermarks.batch_rows(client, records, items, now)
        return rows + self._watermarks.unread_rows(next_offsets(records))

    async def idle_rows(self, records: Sequence[ConsumerRecord]) -> list[PartitionProgress]:
        """Return, about once a second, rows for the idle partitions that are not in `records`.

        Call it when no batch is in flight: only then is every position up to these records processed.
        """
        client, now = self._get_client(), time.monotonic()
        if client is None or now < self._next_idle_rows:
            return []
        self._next_idle_rows = now + TICK_SECONDS
        positions = await client.known_positions()
        self._lag.measure(client, positions, self._watermarks.processed_offsets)
        for partition in next_offsets(records):
            positions.pop(partition, None)
        self._list_partitions(client)
        return self._watermarks.idle_rows(client, positions)

    def batch_applied(self, rows: Iterable[PartitionProgress], offsets: Offsets) -> None:
        """Record a committed batch: the rows written with it, and the offsets after its last records."""
        self._watermarks.saved(rows)
        self._watermarks.processed(offsets)
        self._lag.progressed()

    # --- between batches ------------------------------------------------------------------------

    async def run_ticks(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                async with self._pool.acquire() as connection:
                    await self._clock.measure(connection)
                await self.tick()
            except Exception as error:
                if not (is_unavailable(error) or is_contention(error) or is_kafka_trouble(error)):
                    raise
                logger.debug("Watermarks of idle partitions were not written: %s", in_words(error))

    async def tick(self) -> None:
        """Write the watermarks of partitions that were read to their end, and measure the lag of all.

        Does nothing while a batch is under way; its transaction writes them instead (`idle_rows`).
        """
        client = self._get_client()
        if client is None or self._stopping or self._received != self._handled:
            return
        positions = await client.known_positions()
        # Before anything else is awaited: a rebalance may revoke some of them meanwhile.
        self._lag.measure(client, positions, self._watermarks.processed_offsets)
        trusted = self._watermarks.trusted(positions, quiet=self._received == self._received_at_tick)
        self._received_at_tick = self._received
        self._list_partitions(client)
        await self._write([*self._watermarks.unread_rows(), *self._watermarks.idle_rows(client, trusted)])

    def stop(self) -> None:
        """Write no more ticks: a batch that a stopping worker drops leaves positions ahead of what was processed."""
        self._stopping = True

    # --- rebalances -----------------------------------------------------------------------------

    def forget(self, revoked: Iterable[TopicPartition]) -> None:
        """Forget partitions that are no longer ours, and remove their gauges."""
        self._watermarks.forget_positions()
        self._lag.drop_gauges(revoked)

    def moved(self, offsets: Offsets) -> None:
        """Record that nothing unread is left before these offsets, which are not where the last batch ended."""
        self._watermarks.processed(offsets)

    async def register(self, client: RecordClient) -> None:
        """Write first rows for all partitions of all topics, so that unread ones hold the low watermark back.

        Where the database is unavailable, the next batch writes them.
        """
        self._lag.progressed()
        self._watermarks.add_unread(self._existing(client))
        try:
            async with asyncio.timeout(REGISTER_TIMEOUT_SECONDS):
                await self._write(self._watermarks.unread_rows())
        except Exception as error:
            if not is_unavailable(error):
                raise
            logger.warning("New partitions are registered with the next batch, not now: %s", in_words(error))

    def _list_partitions(self, client: RecordClient | None) -> None:
        """Register partitions that were added, in the same write as the watermarks that their list allows."""
        if client is not None:
            self._watermarks.listed(self._existing(client))

    def _existing(self, client: RecordClient) -> list[TopicPartition]:
        return [
            TopicPartition(topic, number)
            for topic in self._topics
            for number in client.partitions_for_topic(topic) or ()
        ]

    async def _write(self, rows: Sequence[PartitionProgress]) -> None:
        """Write rows between batches, unless the database went back: it lacks the events before these positions."""
        if not rows:
            return
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                await check_anchor(connection, self._anchors.current())
                await save.save_progress(connection, rows)
        except DatabaseWentBackError:
            await self._anchors.start_anew()
        self._watermarks.saved(rows)
