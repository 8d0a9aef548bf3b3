"""The publisher of `inventory.levels`: the newest level of every product that changed, as state and not as history.

One process at a time publishes, the one that holds an advisory lock in the database. Its producer is transactional:
whoever takes the lock starts a producer with the same transactional id before it reads a level, and from then on Kafka
refuses what an older producer may still be sending. So the versions of a product never fall, even where a publisher was
frozen or lost its session in the middle of a send. Readers need no transactions: what an aborted one has left behind is
published again, in the same or a newer version.

A mark in `level_changes` is deleted after the commit of the Kafka transaction that carries its levels. A crash in
between publishes them again. See decision 20.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import asyncpg
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import UnknownTopicOrPartitionError

from engine import metrics
from engine.backoff import Backoff
from schemas.topics import LEVELS
from storage import levels, stock
from storage.database import connect_worker
from storage.errors import in_words, is_contention, is_unavailable
from storage.stock import StockLevel
from workers.kafka_errors import is_kafka_trouble
from workers.publishing.kafka_headers import partition_of
from workers.publishing.producer import MAX_BATCH_BYTES

logger = logging.getLogger(__name__)

# Shortest time between two records of one product, and the interval at which changes are looked for.
INTERVAL_SECONDS = 0.1
# Records of one step: more would keep the event loop from the batches for too long.
RECORDS_PER_STEP = 500
# What a step costs however few its records are, in records: the transaction's requests to Kafka.
STEP_OVERHEAD_RECORDS = 250
# A process that is not the publisher asks this often whether the publisher has gone.
TAKE_OVER_SECONDS = 2.0
# Marks read in one step; a batch makes one or two.
MAX_MARKS = 500
SEND_TIMEOUT_SECONDS = 30.0
METADATA_TIMEOUT_SECONDS = 5.0
CLOSE_SECONDS = 5.0
# How long Kafka keeps the transaction of a publisher that died open: it holds back readers with read_committed.
TRANSACTION_TIMEOUT_MS = 15_000
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 10.0
TRANSACTIONAL_ID = "inventory-levels"


class LevelOptions(NamedTuple):
    """The prefix of the topic and of the transactional id, the most records a second, and those of one step.

    The rate bounds what publishing takes from a worker in the same process: above it, more changes are merged.
    """

    prefix: str
    records_per_second: int
    records_per_step: int = RECORDS_PER_STEP


class LevelPublisher:
    """Publishes levels while it holds the lock; `run()` until cancelled."""

    def __init__(self, database_url: str, producer_options: Mapping[str, Any], options: LevelOptions) -> None:
        self._database_url = database_url
        self._producer_options = producer_options
        self._topic = options.prefix + LEVELS
        self._transactional_id = options.prefix + TRANSACTIONAL_ID
        self._records_per_second = options.records_per_second
        self._records_per_step = options.records_per_step
        self._connection: asyncpg.Connection | None = None
        self._producer: AIOKafkaProducer | None = None
        self._next_step = 0.0
        self.is_publisher = False

    async def run(self) -> None:
        """Publish until cancelled; after a failure of Kafka or the database, try again."""
        backoff = Backoff(FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS)
        try:
            while True:
                try:
                    published = await self.run_once()
                except Exception as error:
                    if not (_is_kafkas(error) or is_unavailable(error) or is_contention(error)):
                        raise
                    logger.warning("Levels cannot be published (%s); trying again", in_words(error))
                    await self.close()
                    await backoff.wait()
                    continue
                backoff.reset()
                if published == 0:
                    await asyncio.sleep(INTERVAL_SECONDS if self.is_publisher else TAKE_OVER_SECONDS)
        finally:
            await self.close()

    async def run_once(self) -> int:
        """Publish the levels of the oldest marks, if this process is the publisher; returns how many records."""
        connection = await self._connected()
        if not self.is_publisher:
            if not await levels.become_publisher(connection):
                return 0
            self.is_publisher = True
        producer = await self._started()
        marks = await levels.unpublished(connection, MAX_MARKS)
        # Each product once, and for each mark how many products are published when all of its own are.
        changed: dict[str, None] = {}
        complete_at = []
        for mark in marks:
            changed.update(dict.fromkeys(mark.product_ids))
            complete_at.append((len(changed), mark.position))
        published = sent = 0
        product_ids = list(changed)
        for first in range(0, len(product_ids), self._records_per_step):
            await self._pace()
            # Read at the last moment: what changed while the step before was sent is merged.
            read = await stock.read_stock(connection, product_ids[first : first + self._records_per_step])
            try:
                await self._send(producer, read.values())
            finally:
                pause = max(INTERVAL_SECONDS, (len(read) + STEP_OVERHEAD_RECORDS) / self._records_per_second)
                self._next_step = asyncio.get_running_loop().time() + pause
            published += len(read)
            before, sent = sent, first + self._records_per_step
            done = [position for count, position in complete_at if before < count <= sent]
            await levels.delete_published(connection, done)
        return published

    async def close(self) -> None:
        """Stop the producer and close the connection, which lets another process become the publisher."""
        producer, self._producer = self._producer, None
        connection, self._connection = self._connection, None
        self.is_publisher = False
        if producer is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await producer.stop()
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.close(timeout=CLOSE_SECONDS)

    async def _pace(self) -> None:
        """Wait until the next step may begin: `INTERVAL_SECONDS` after the end of the one before, or more."""
        await asyncio.sleep(max(0.0, self._next_step - asyncio.get_running_loop().time()))

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            await self.close()
            self._connection = await connect_worker(self._database_url, "inventory-levels")
        return self._connection

    async def _started(self) -> AIOKafkaProducer:
        """Return the producer; a new one is returned only once Kafka refuses whatever its predecessors send."""
        if self._producer is None:
            self._producer = producer = AIOKafkaProducer(
                **self._producer_options,
                transactional_id=self._transactional_id,
                transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
                request_timeout_ms=int(SEND_TIMEOUT_SECONDS * 1000),
                max_batch_size=MAX_BATCH_BYTES,
            )
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                await producer.start()
                # Beginning waits for the transactional id to be ours; an empty transaction sends nothing.
                async with producer.transaction():
                    pass
        return self._producer

    async def _send(self, producer: AIOKafkaProducer, found: Iterable[StockLevel]) -> None:
        """Send the levels in one transaction and wait for its commit."""
        count = await self._partition_count(producer)
        by_partition: dict[int, list[StockLevel]] = {}
        for level in found:
            by_partition.setdefault(partition_of(level.product_id, count), []).append(level)
        if not by_partition:
            return
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS), producer.transaction():
            acknowledgements = []
            for partition, found_there in by_partition.items():
                batch = producer.create_batch()
                for level in found_there:
                    key, value = level.product_id.encode(), level_json(level)
                    if batch.append(key=key, value=value, timestamp=None) is None:
                        acknowledgements.append(await producer.send_batch(batch, self._topic, partition=partition))
                        batch = producer.create_batch()
                        batch.append(key=key, value=value, timestamp=None)
                acknowledgements.append(await producer.send_batch(batch, self._topic, partition=partition))
            await asyncio.gather(*acknowledgements)
        metrics.LEVELS_PUBLISHED.inc(sum(map(len, by_partition.values())))

    async def _partition_count(self, producer: AIOKafkaProducer) -> int:
        try:
            async with asyncio.timeout(METADATA_TIMEOUT_SECONDS):
                return len(await producer.partitions_for(self._topic))
        except (TimeoutError, UnknownTopicOrPartitionError):
            message = f"there is no topic {self._topic}; `inventory topics create` creates it"
            raise UnknownTopicOrPartitionError(message) from None


def level_json(level: StockLevel) -> bytes:
    """Return the value of a level's record."""
    return orjson.dumps(level._asdict(), option=orjson.OPT_UTC_Z)


def _is_kafkas(error: Exception) -> bool:
    return is_kafka_trouble(error) or isinstance(error, TimeoutError)
