"""The relay's Kafka producer: sends events in batches and single records, and is replaced after an error.

Topics are named without their prefix here; the producer adds it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any, NamedTuple, TypeGuard

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidMessageError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    LeaderNotAvailableError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    ProducerClosed,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import TopicPartition

from storage.outbox import PendingEvent
from workers.publishing.kafka_headers import Headers, event_headers, partition_of

logger = logging.getLogger(__name__)

SEND_TIMEOUT_SECONDS = 30.0
# Longest wait for the slowest partition once others were acknowledged: they are not to be sent again for its sake.
LATE_SECONDS = 10.0
METADATA_TIMEOUT_SECONDS = 3.0
STOP_TIMEOUT_SECONDS = 5.0
# A dead letter carries a whole record, which may be as large as the largest limit that brokers are commonly given.
MAX_REQUEST_BYTES = 16 * 1024 * 1024
# The events of one poll for one partition usually fit into one batch; the broker's limit is 1 MiB by default.
MAX_BATCH_BYTES = 512 * 1024

# Kafka accepts a record with neither key nor value; aiokafka's producer refuses it. This stands for the value of such
# a record, and the serializer turns it into none.
_NO_VALUE: Any = object()
NO_LEADER = -1


class BehindRefusedError(KafkaError):  # type: ignore[misc] # aiokafka is published without types
    """Sent behind a batch that the broker refused: to be sent again, because the sequence numbers have a gap there."""


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
        # Topics found missing; they get no second grace period for being created at this moment.
        self._missing: set[str] = set()

    async def send_events(self, events: Sequence[PendingEvent], *, each_alone: bool = False) -> list[Delivery]:
        """Send events, those of a key in the order given; returns what the broker said to each batch.

        Events of a topic or partition that cannot be written are failed deliveries and do not hold the others back.
        `each_alone` sends each event in a batch of its own, so that a refusal says which one is meant.
        Raises TimeoutError when the broker does not answer in time: any of the events may have arrived.
        """
        producer = await self._started()
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            counts, unusable = await self._partition_counts(producer, {event.topic for event in events})
        deliveries = [
            Delivery([event for event in events if event.topic == topic], error) for topic, error in unusable.items()
        ]
        by_partition: dict[tuple[str, int], list[PendingEvent]] = {}
        for event in events:
            if event.topic in counts:
                partition = partition_of(event.key, counts[event.topic])
                by_partition.setdefault((event.topic, partition), []).append(event)
        sending = {
            asyncio.create_task(self._send_partition(producer, topic, partition, queue, each_alone=each_alone)): queue
            for (topic, partition), queue in by_partition.items()
        }
        answered = await _answers(sending)
        deliveries += [delivery for task in answered for delivery in task.result()]
        late = [queue for task, queue in sending.items() if task not in answered]
        deliveries += [Delivery(queue, TimeoutError("no acknowledgement in time")) for queue in late]
        if late or any(delivery.error for delivery in deliveries if delivery.events[0].topic in counts):
            await self.drop()
        return deliveries

    async def send_records(self, records: Sequence[OutgoingRecord]) -> list[BaseException | None]:
        """Send records; returns for each the error, or None when the broker acknowledged it.

        Raises TimeoutError when the broker does not answer in time: any of the records may have arrived.
        """
        producer = await self._started()
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            counts, unusable = await self._partition_counts(producer, {record.topic for record in records})
            present = [record for record in records if record.topic in counts]
            results = await asyncio.gather(
                *(self._send(producer, record, counts[record.topic]) for record in present), return_exceptions=True
            )
        outcomes = iter(results)
        return [unusable.get(record.topic) or _error(next(outcomes)) for record in records]

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
        """Return the number of partitions of each topic, and an error for each that is missing or forbidden."""
        counts: dict[str, int] = {}
        unusable: dict[str, KafkaError] = {}
        for topic in sorted(topics):
            name = self._prefix + topic
            partitions = producer.client.cluster.partitions_for_topic(name)
            try:
                if partitions is None:
                    partitions = await self._look_up(producer, name)
                counts[topic] = len(partitions)
                self._missing.discard(name)
            except TopicAuthorizationFailedError:
                unusable[topic] = TopicAuthorizationFailedError(f"no right to write to topic {name}")
            except (TimeoutError, InvalidTopicError, UnknownTopicOrPartitionError):
                self._missing.add(name)
                unusable[topic] = UnknownTopicOrPartitionError(f"there is no topic {name}")
        return counts, unusable

    async def _look_up(self, producer: AIOKafkaProducer, name: str) -> AbstractSet[int]:
        """Return a topic's partitions from the brokers; a topic that was missing before is asked for once only."""
        if name not in self._missing:
            async with asyncio.timeout(METADATA_TIMEOUT_SECONDS):
                partitions: AbstractSet[int] = await producer.partitions_for(name)
                return partitions
        async with asyncio.timeout(METADATA_TIMEOUT_SECONDS):
            await producer.client.add_topic(name)
            await producer.client.force_metadata_update()
        found: AbstractSet[int] | None = producer.client.cluster.partitions_for_topic(name)
        if found is None:
            raise UnknownTopicOrPartitionError
        return found

    async def _send_partition(
        self, producer: AIOKafkaProducer, topic: str, partition: int, queue: Sequence[PendingEvent], *, each_alone: bool
    ) -> list[Delivery]:
        """Send the events of one partition, in one batch where they fit.

        Building batches here costs a tenth of calling `send()` for each event.
        """
        name = self._prefix + topic
        if producer.client.cluster.leader_for_partition(TopicPartition(name, partition)) == NO_LEADER:
            producer.client.force_metadata_update()
            return [Delivery(queue, LeaderNotAvailableError(f"partition {partition} of {name} has no leader"))]
        sent: list[tuple[Sequence[PendingEvent], asyncio.Future[Any]]] = []
        try:
            batch, first = producer.create_batch(), 0
            for number, event in enumerate(queue):
                if (each_alone and number > first) or not _append(batch, event):
                    sent.append((queue[first:number], await producer.send_batch(batch, name, partition=partition)))
                    batch, first = producer.create_batch(), number
                    _append(batch, event)
            sent.append((queue[first:], await producer.send_batch(batch, name, partition=partition)))
        except KafkaError as error:
            done = sum(len(events) for events, _ in sent)
            return [*await _outcomes(sent), Delivery(queue[done:], error)]
        return await _outcomes(sent)

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


def is_unpublishable(error: BaseException | None) -> TypeGuard[KafkaError]:
    """Return whether a record, or one of the batch that it was in, will never be accepted: for its size or form."""
    return is_too_large(error) or isinstance(error, InvalidTimestampError | InvalidMessageError | PolicyViolationError)


def concerns_topic(error: BaseException | None) -> TypeGuard[KafkaError]:
    """Return whether nothing can be written to the topic: it is missing, or we have no right to."""
    return isinstance(error, InvalidTopicError | UnknownTopicOrPartitionError | TopicAuthorizationFailedError)


def raise_first(errors: Iterable[BaseException | None]) -> None:
    """Raise the first error, if there is any."""
    for error in errors:
        if error is not None:
            raise error


async def _answers(sending: Collection[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Return the tasks that the broker answered; the others are cancelled. Raises TimeoutError if there are none."""
    if not sending:
        return set()
    try:
        answered, late = await asyncio.wait(sending, timeout=LATE_SECONDS)
        if late and not answered:
            answered, late = await asyncio.wait(
                late, timeout=SEND_TIMEOUT_SECONDS - LATE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        if not answered:
            raise TimeoutError("Kafka acknowledged nothing in time")
        return answered
    finally:
        for task in sending:
            task.cancel()


async def _outcomes(sent: Sequence[tuple[Sequence[PendingEvent], asyncio.Future[Any]]]) -> list[Delivery]:
    """Return what became of the batches of one partition, in their order."""
    results = await asyncio.gather(*(acknowledgement for _, acknowledgement in sent), return_exceptions=True)
    deliveries: list[Delivery] = []
    refused = False
    for (events, _), result in zip(sent, results, strict=True):
        deliveries.append(Delivery(events, BehindRefusedError() if refused else _error(result)))
        refused = refused or is_unpublishable(_error(result))
    return deliveries


def _error(result: object) -> BaseException | None:
    return result if isinstance(result, BaseException) else None


def _append(batch: BatchBuilder, event: PendingEvent) -> bool:
    """Add an event to a batch; false when the batch is full."""
    added = batch.append(
        timestamp=None, key=event.key.encode(), value=event.payload.encode(), headers=event_headers(event)
    )
    return added is not None
