"""The relay: publishes the outbox and the dead letters, woken by the commit that wrote them.

Every worker can relay. A share of the keys has one relay at a time (`storage.outbox`), so the events of
one key are published in the order in which they were written. A row leaves the queue only after the
broker acknowledged it: what is published twice after a crash has the same id. The look for what waits next
marks it, in one statement and one commit.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerClosed,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)
from aiokafka.producer.message_accumulator import BatchBuilder

from schemas.topics import dlq_topic
from storage import dead_letters, outbox
from storage.database import connect_worker
from storage.dead_letters import DeadLetter
from storage.errors import in_words, is_contention, is_unavailable
from storage.outbox import DEAD_LETTER_SHARD, SHARDS, PendingEvent
from workers.publishing.kafka_headers import dead_letter_headers, event_headers, partition_of
from workers.publishing.low_water import LowWater

logger = logging.getLogger(__name__)

SEND_TIMEOUT_SECONDS = 30.0
METADATA_TIMEOUT_SECONDS = 3.0
REBALANCE_SECONDS = 2.0
# A notification does not say whether a dead letter was written, which is rare: they are looked for this much later.
DEAD_LETTER_SECONDS = 0.2
# What closes or is given up has this long to note what the broker has; without it, that is published again.
LAST_MARK_SECONDS = 2.0
DEAD_LETTERS_AT_ONCE = 100
DEAD_LETTER_BYTES_AT_ONCE = 8 * 1024 * 1024
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 5.0
# Dead letters carry whole records, of up to the largest size a broker is usually let take.
MAX_REQUEST_BYTES = 16 * 1024 * 1024
# A step's events for one partition usually fit into one batch; the broker's limit is 1 MiB unless raised.
MAX_BATCH_BYTES = 512 * 1024

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
# Kafka takes a record without key and value, aiokafka's producer only one that seems to have either.
_NO_VALUE: Any = object()
# Events, and what says whether the broker has them.
Shipment = tuple[Sequence[PendingEvent], asyncio.Future[Any]]


class Relay:
    """Publishes for the shards it holds; `wake()` after each commit, `run()` until cancelled."""

    def __init__(  # noqa: PLR0913 - its surroundings, each by name
        self,
        database_url: str,
        producer_options: dict[str, Any],
        *,
        prefix: str,
        group_id: str,
        version: str,
        poll_seconds: float,
        batch_size: int,
        clock: Callable[[], datetime],
    ) -> None:
        self._database_url = database_url
        self._producer_options = producer_options
        self._prefix = prefix
        self._group_id = group_id
        self._version = version
        self._poll_seconds = poll_seconds
        self._batch_size = batch_size
        self._clock = clock
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()
        self._connection: asyncpg.Connection | None = None
        self._producer: AIOKafkaProducer | None = None
        self._shards: set[int] = set()
        self._next_rebalance = 0.0
        self._low_water = LowWater()
        # Positions of events that the broker has and the table does not know of yet: the next look notes them.
        self._acknowledged: list[int] = []
        self._letters_due = 0.0

    def wake(self, *, dead_letters: bool = False) -> None:
        """Say that there is something to publish, and whether there are dead letters among it."""
        if dead_letters:
            self._letters_due = 0.0
        self._woken.set()

    async def drained(self) -> None:
        """Wait until a look that began later found nothing more to publish in our shards, and all is marked."""
        self._idle.clear()
        self.wake(dead_letters=True)
        await self._idle.wait()

    async def run(self) -> None:
        """Publish for as long as the task lives; whatever fails is tried again, anew where need be."""
        delay = FIRST_RETRY_SECONDS
        try:
            while True:
                try:
                    self._woken.clear()
                    if await self.run_once() == 0 and not self._woken.is_set():
                        self._idle.set()
                        await self._wait()
                    delay = FIRST_RETRY_SECONDS
                except (KafkaError, TimeoutError) as error:
                    logger.warning("The relay cannot publish (%s); trying again", in_words(error))
                    await self._drop_producer()
                    if isinstance(error, TimeoutError):
                        # It may be the database that gave no answer: its connection can hang for minutes unnoticed.
                        await self._drop_connection()
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, LAST_RETRY_SECONDS)
                except Exception as error:
                    if not (is_unavailable(error) or is_contention(error)):
                        raise
                    logger.warning("The relay cannot read the outbox (%s); trying again", in_words(error))
                    await self._drop_connection()
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, LAST_RETRY_SECONDS)
        finally:
            await self.close()

    async def run_once(self) -> int:
        """Publish one step of what waits; returns how many outgoing events and dead letters that were.

        The events are marked by the next step, which is due at once; after a step of none, all are.
        """
        connection = await self._connected()
        await self._rebalance(connection)
        published = 0
        shards = sorted(self._shards - {DEAD_LETTER_SHARD})
        if shards:
            published = await self._publish_events(connection, shards)
        now = asyncio.get_running_loop().time()
        if now >= self._letters_due:
            self._letters_due = now + self._poll_seconds
            if DEAD_LETTER_SHARD in self._shards:
                published += await self._publish_dead_letters(connection)
        return published

    async def close(self) -> None:
        """Give everything back."""
        await self._drop_producer()
        await self._drop_connection()

    async def _wait(self) -> None:
        now = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(now + self._poll_seconds, self._letters_due)):
                await self._woken.wait()

    def _notified(self, *_: object) -> None:
        """Some commit wrote events or dead letters: look at once for the former, soon for the latter."""
        soon = asyncio.get_running_loop().time() + DEAD_LETTER_SECONDS
        self._letters_due = min(self._letters_due, soon)
        self._woken.set()

    # --- outgoing events --------------------------------------------------------------------------

    async def _publish_events(self, connection: asyncpg.Connection, shards: list[int]) -> int:
        done_up_to = await self._low_water.written_up_to(connection)
        rows = await outbox.pending(
            connection,
            shards,
            self._low_water.position,
            self._batch_size,
            published=self._acknowledged,
            now=self._clock(),
        )
        self._acknowledged = []
        if not rows or rows[0].position > done_up_to:
            self._low_water.raise_to(done_up_to)
        if not rows:
            return 0
        producer = await self._started_producer()
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            shipments = await self._ship(producer, rows)
            results = await asyncio.gather(*(future for _, future in shipments), return_exceptions=True)
        # Order is kept per key: of a key of which the broker lacks one event, all are sent again.
        failed = {
            (row.topic, row.key)
            for (lot, _), result in zip(shipments, results, strict=True)
            if isinstance(result, BaseException)
            for row in lot
        }
        self._acknowledged = [row.position for row in rows if not failed or (row.topic, row.key) not in failed]
        if failed:
            await self._mark(connection)
            _raise_first(results)
        return len(self._acknowledged)

    async def _mark(self, connection: asyncpg.Connection) -> None:
        """Note what the broker has, where the next look may be late, not by us, or never."""
        if self._acknowledged:
            await outbox.mark_published(connection, self._acknowledged, self._clock())
            self._acknowledged = []

    async def _ship(self, producer: AIOKafkaProducer, rows: Sequence[PendingEvent]) -> list[Shipment]:
        """Hand the events to the producer, one batch a partition where they fit; returns what to wait for.

        Built batches are a tenth of the cost of `send()` for each event. What goes to a topic that is missing
        fails by itself: the others' events are not held back.
        """
        partitions, failures = await self._count_partitions(producer, {row.topic for row in rows})
        shipments: list[Shipment] = [
            ([row for row in rows if row.topic == topic], failure) for topic, failure in failures.items()
        ]
        lots: dict[tuple[str, int], list[PendingEvent]] = {}
        for row in rows:
            if row.topic in partitions:
                lots.setdefault((row.topic, partition_of(row.key, partitions[row.topic])), []).append(row)
        for (topic, partition), lot in lots.items():
            batch, first = producer.create_batch(), 0
            for number, row in enumerate(lot):
                if not _append(batch, row):
                    sent = await producer.send_batch(batch, self._prefix + topic, partition=partition)
                    shipments.append((lot[first:number], sent))
                    batch, first = producer.create_batch(), number
                    _append(batch, row)
            sent = await producer.send_batch(batch, self._prefix + topic, partition=partition)
            shipments.append((lot[first:], sent))
        return shipments

    async def _count_partitions(
        self, producer: AIOKafkaProducer, topics: Iterable[str]
    ) -> tuple[dict[str, int], dict[str, asyncio.Future[Any]]]:
        """Return the number of partitions of the topics that exist, and a failure for each that does not."""
        partitions: dict[str, int] = {}
        failures: dict[str, asyncio.Future[Any]] = {}
        for topic in sorted(topics):
            name = self._prefix + topic
            known = producer.client.cluster.partitions_for_topic(name)
            try:
                if known is None:
                    async with asyncio.timeout(METADATA_TIMEOUT_SECONDS):
                        known = await producer.partitions_for(name)
                partitions[topic] = len(known)
            except (TimeoutError, InvalidTopicError, UnknownTopicOrPartitionError):
                failures[topic] = asyncio.get_running_loop().create_future()
                failures[topic].set_exception(UnknownTopicOrPartitionError(f"there is no topic {name}"))
        return partitions, failures

    # --- dead letters -----------------------------------------------------------------------------

    async def _publish_dead_letters(self, connection: asyncpg.Connection) -> int:
        letters = await dead_letters.pending_dead_letters(connection, DEAD_LETTERS_AT_ONCE, DEAD_LETTER_BYTES_AT_ONCE)
        if not letters:
            return 0
        # There may be more, and those that fail are still there.
        self._letters_due = 0.0
        await self._mark(connection)
        producer = await self._started_producer()
        topics = {dlq_topic(letter.record.topic) for _, letter in letters}
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            partitions, failures = await self._count_partitions(producer, topics)
            results = await asyncio.gather(
                *(
                    failures.get(dlq_topic(letter.record.topic)) or self._send_dead_letter(producer, letter, partitions)
                    for _, letter in letters
                ),
                return_exceptions=True,
            )
        done = []
        for (position, letter), result in zip(letters, results, strict=True):
            if isinstance(result, _TOO_LARGE):
                published = await self._publish_alone(connection, position, letter, partitions)
            else:
                published = not isinstance(result, BaseException)
            if published:
                done.append(position)
        if done:
            await dead_letters.mark_published(connection, done, self._clock())
        _raise_first([result for result in results if not isinstance(result, _TOO_LARGE)])
        return len(letters)

    async def _publish_alone(
        self, connection: asyncpg.Connection, position: int, letter: DeadLetter, partitions: Mapping[str, int]
    ) -> bool:
        """Send a dead letter by itself: the broker refuses whole batches, and any record of one may be to blame.

        By a new producer: after a refusal the old one's sequence numbers have a gap.
        """
        await self._drop_producer()
        producer = await self._started_producer()
        try:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                await self._send_dead_letter(producer, letter, partitions)
        except _TOO_LARGE as error:
            logger.error("Dead letter %s is too large for its topic and stays in the table only", letter.id)  # noqa: TRY400 - the trace says nothing more
            await dead_letters.mark_unpublishable(connection, position, in_words(error))
            await self._drop_producer()
            return False
        return True

    async def _send_dead_letter(
        self, producer: AIOKafkaProducer, letter: DeadLetter, partitions: Mapping[str, int]
    ) -> None:
        record = letter.record
        topic = dlq_topic(record.topic)
        await producer.send_and_wait(
            self._prefix + topic,
            _NO_VALUE if record.value is None else record.value,
            key=record.key,
            partition=record.partition % partitions[topic],
            timestamp_ms=None if record.timestamp is None else round(record.timestamp.timestamp() * 1000),
            headers=dead_letter_headers(letter, self._prefix, self._group_id, self._version),
        )

    # --- shards, connection, producer -------------------------------------------------------------

    async def _rebalance(self, connection: asyncpg.Connection) -> None:
        """Every now and then take a fair share of the shards: what is free, or give back what is too much."""
        now = asyncio.get_running_loop().time()
        if now < self._next_rebalance:
            return
        self._next_rebalance = now + REBALANCE_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        fair = -(-(SHARDS + 1) // max(await outbox.count_relays(connection), 1))
        surplus = sorted(self._shards)[fair:]
        if surplus:
            # Whoever has a shard next publishes what is not marked.
            await self._mark(connection)
        for shard in surplus:
            await outbox.give_back_shard(connection, shard)
            self._shards.remove(shard)
        missing = [shard for shard in range(SHARDS + 1) if shard not in self._shards]
        random.shuffle(missing)
        for shard in missing:
            if len(self._shards) >= fair:
                break
            if await outbox.take_shard(connection, shard):
                self._shards.add(shard)
                self._low_water.reset()
                self._letters_due = 0.0

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        await self._drop_connection()
        self._connection = await connect_worker(self._database_url, "inventory-relay")
        await outbox.join_relays(self._connection)
        await self._connection.add_listener(outbox.CHANNEL, self._notified)
        self._next_rebalance = 0.0
        return self._connection

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        self._shards.clear()
        if connection is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(LAST_MARK_SECONDS):
                    await self._mark(connection)
            with contextlib.suppress(Exception):
                await connection.close(timeout=2)
        # Never on another connection: a server that took over without the newest rows gives their positions out again.
        self._acknowledged = []

    async def _started_producer(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **self._producer_options,
                max_request_size=MAX_REQUEST_BYTES,
                max_batch_size=MAX_BATCH_BYTES,
                request_timeout_ms=int(SEND_TIMEOUT_SECONDS * 1000),
                value_serializer=lambda value: None if value is _NO_VALUE else value,
            )
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    async def _drop_producer(self) -> None:
        """Let go of the producer: after an error that it does not retry, aiokafka's can be left unusable (#1017).

        Nothing that it has not sent may be sent later, behind what its successor sends: an idempotent producer
        would try for ever. All of it is still in the tables.
        """
        producer, self._producer = self._producer, None
        if producer is None:
            return
        producer._message_accumulator.fail_all(ProducerClosed())  # noqa: SLF001 - stop() alone would wait for it
        with contextlib.suppress(Exception):
            async with asyncio.timeout(5):
                await producer.stop()


def _append(batch: BatchBuilder, row: PendingEvent) -> bool:
    """Put an event into a batch; false when the batch is full."""
    added = batch.append(timestamp=None, key=row.key.encode(), value=row.payload.encode(), headers=event_headers(row))
    return added is not None


def _raise_first(results: Sequence[object]) -> None:
    for result in results:
        if isinstance(result, InvalidTopicError | UnknownTopicOrPartitionError):
            logger.error("A topic is missing: %s; `inventory topics create` makes all of them", result)
        if isinstance(result, BaseException):
            raise result
