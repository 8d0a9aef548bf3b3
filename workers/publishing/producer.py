"""The relay's Kafka producer: sends events in batches and single records, and is replaced after an error.

Topics are named without their prefix here; the producer adds it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeGuard

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

from storage.outbox import PendingEvent
from workers.publishing.kafka_headers import Headers, event_headers, partition_of

logger = logging.getLogger(__name__)

SEND_TIMEOUT_SECONDS = 30.0
METADATA_TIMEOUT_SECONDS = 3.0
STOP_TIMEOUT_SECONDS = 5.0
# A dead letter carries a whole record, which may be as large as the largest limit that brokers are commonly given.
MAX_REQUEST_BYTES = 16 * 1024 * 1024
# The events of one poll for one partition usually fit into one batch; the broker's limit is 1 MiB by default.
MAX_BATCH_BYTES = 512 * 1024

# Kafka accepts a record with neither key nor value; aiokafka's producer refuses it. This stands for the value of such
# a record, and the serializer turns it into none.
_NO_VALUE: Any = object()
_MISSING_TOPIC = (InvalidTopicError, UnknownTopicOrPartitionError)


class Delivery(NamedTuple):
    """Events that were sent together; `error` is None when the broker acknowledged them."""

    events: Sequence[PendingEvent]
    error: BaseException | None


class OutgoingRecord(NamedTuple):
    """A record to send by itself; it goes to `partition` modulo the topic's number of partitions."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp: datetime | None
    headers: Headers


class Producer:
    """An `AIOKafkaProducer` that is started when first needed, and anew after `drop()`."""

    def __init__(self, options: Mapping[str, Any], prefix: str) -> None:
        self._options = options
        self._prefix = prefix
        self._producer: AIOKafkaProducer | None = None

    async def send_events(self, events: Sequence[PendingEvent]) -> list[Delivery]:
        """Send events, those of a key in the order given; returns what the broker said to each batch.

        Events of a missing topic are a failed delivery of their own and do not hold the others back.
        Raises TimeoutError when the broker does not answer in time: any of the events may have arrived.
        """
        producer = await self._started()
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            counts, missing = await self._partition_counts(producer, {event.topic for event in events})
            sent = await self._send_batches(producer, [event for event in events if event.topic in counts], counts)
            results = await asyncio.gather(*(acknowledgement for _, acknowledgement in sent), return_exceptions=True)
        return [
            *(Delivery([event for event in events if event.topic == topic], error) for topic, error in missing.items()),
            *(Delivery(batch, _error(result)) for (batch, _), result in zip(sent, results, strict=True)),
        ]

    async def send_records(self, records: Sequence[OutgoingRecord]) -> list[BaseException | None]:
        """Send records; returns for each the error, or None when the broker acknowledged it.

        Raises TimeoutError when the broker does not answer in time: any of the records may have arrived.
        """
        producer = await self._started()
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            counts, missing = await self._partition_counts(producer, {record.topic for record in records})
            present = [record for record in records if record.topic in counts]
            results = await asyncio.gather(
                *(self._send(producer, record, counts[record.topic]) for record in present), return_exceptions=True
            )
        outcomes = iter(results)
        return [missing.get(record.topic) or _error(next(outcomes)) for record in records]

    async def drop(self) -> None:
        """Stop the producer; the next send starts a new one.

        After an error that aiokafka does not retry, its producer can be left unusable (aiokafka #1017). Nothing that
        it has not sent yet may be sent later, behind what its successor sends, and an idempotent producer would retry
        forever; so its queue is failed first. The tables still have all of it.
        """
        producer, self._producer = self._producer, None
        if producer is None:
            return
        producer._message_accumulator.fail_all(ProducerClosed())  # noqa: SLF001 - stop() alone waits for the queue
        with contextlib.suppress(Exception):
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await producer.stop()

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **self._options,
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

    async def _partition_counts(
        self, producer: AIOKafkaProducer, topics: Iterable[str]
    ) -> tuple[dict[str, int], dict[str, KafkaError]]:
        """Return the number of partitions of each topic that exists, and an error for each that does not."""
        counts: dict[str, int] = {}
        missing: dict[str, KafkaError] = {}
        for topic in sorted(topics):
            name = self._prefix + topic
            partitions = producer.client.cluster.partitions_for_topic(name)
            try:
                if partitions is None:
                    async with asyncio.timeout(METADATA_TIMEOUT_SECONDS):
                        partitions = await producer.partitions_for(name)
                counts[topic] = len(partitions)
            except (TimeoutError, *_MISSING_TOPIC):
                missing[topic] = UnknownTopicOrPartitionError(f"there is no topic {name}")
        return counts, missing

    async def _send_batches(
        self, producer: AIOKafkaProducer, events: Iterable[PendingEvent], counts: Mapping[str, int]
    ) -> list[tuple[Sequence[PendingEvent], asyncio.Future[Any]]]:
        """Queue the events, in one batch per partition where they fit; returns each batch with its acknowledgement.

        Building batches here costs a tenth of calling `send()` for each event.
        """
        by_partition: dict[tuple[str, int], list[PendingEvent]] = {}
        for event in events:
            partition = partition_of(event.key, counts[event.topic])
            by_partition.setdefault((event.topic, partition), []).append(event)
        sent: list[tuple[Sequence[PendingEvent], asyncio.Future[Any]]] = []
        for (topic, partition), queue in by_partition.items():
            batch, first = producer.create_batch(), 0
            for number, event in enumerate(queue):
                if not _append(batch, event):
                    acknowledgement = await producer.send_batch(batch, self._prefix + topic, partition=partition)
                    sent.append((queue[first:number], acknowledgement))
                    batch, first = producer.create_batch(), number
                    _append(batch, event)
            acknowledgement = await producer.send_batch(batch, self._prefix + topic, partition=partition)
            sent.append((queue[first:], acknowledgement))
        return sent

    async def _send(self, producer: AIOKafkaProducer, record: OutgoingRecord, partitions: int) -> None:
        await producer.send_and_wait(
            self._prefix + record.topic,
            _NO_VALUE if record.value is None else record.value,
            key=record.key,
            partition=record.partition % partitions,
            timestamp_ms=None if record.timestamp is None else round(record.timestamp.timestamp() * 1000),
            headers=record.headers,
        )


def is_too_large(error: BaseException | None) -> TypeGuard[KafkaError]:
    """Return whether the broker or the producer refused a record, or the batch that it was in, for its size."""
    return isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError)


def raise_first(errors: Iterable[BaseException | None]) -> None:
    """Raise the first error, if there is any; a missing topic is logged with its remedy."""
    for error in errors:
        if isinstance(error, _MISSING_TOPIC):
            logger.error("A topic is missing: %s; `inventory topics create` creates all of them", error)
        if error is not None:
            raise error


def _error(result: object) -> BaseException | None:
    return result if isinstance(result, BaseException) else None


def _append(batch: BatchBuilder, event: PendingEvent) -> bool:
    """Add an event to a batch; false when the batch is full."""
    added = batch.append(
        timestamp=None, key=event.key.encode(), value=event.payload.encode(), headers=event_headers(event)
    )
    return added is not None
