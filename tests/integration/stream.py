"""Kafka for tests: publish what producers would, read what the worker published, and wait for what must come."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from inventory.settings import Settings
from schemas.topics import TOPICS_IN
from tests.integration.shop import Published, body

PATIENCE_SECONDS = 90.0
LARGEST_BYTES = 8 * 1024 * 1024

Headers = Sequence[tuple[str, bytes | None]]


def settings_for(bootstrap_servers: str, prefix: str, database_url: str, **changes: Any) -> Settings:
    """Return the settings of a worker that is quick to react and keeps to its own topics, group and port."""
    values: dict[str, Any] = {
        "kafka_bootstrap_servers": bootstrap_servers,
        "kafka_topic_prefix": prefix,
        "kafka_group_id": f"{prefix}group",
        "kafka_fetch_max_wait_ms": 100,
        # The shortest that brokers take: a worker that died is missed after it.
        "kafka_session_timeout_ms": 6000,
        "kafka_heartbeat_interval_ms": 1000,
        "database_url": database_url,
        "http_host": "127.0.0.1",
        "http_port": 0,
        "sweep_interval": timedelta(seconds=0.2),
        "relay_poll_interval": timedelta(seconds=0.1),
        "log_format": "human",
    }
    return Settings(**values | changes)


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the variables that give another process the same settings."""
    names = (
        "kafka_bootstrap_servers",
        "kafka_topic_prefix",
        "kafka_group_id",
        "kafka_fetch_max_wait_ms",
        "kafka_session_timeout_ms",
        "kafka_heartbeat_interval_ms",
        "database_url",
        "http_host",
        "http_port",
        "log_format",
        "late_payment_policy",
        "dead_letter_breaker_consecutive",
    )
    durations = ("sweep_interval", "relay_poll_interval", "order_reservation_ttl")
    return {
        **{f"INVENTORY_{name.upper()}": str(getattr(settings, name)) for name in names},
        **{f"INVENTORY_{name.upper()}": f"{getattr(settings, name).total_seconds()}s" for name in durations},
    }


@asynccontextmanager
async def producing(bootstrap_servers: str, prefix: str) -> AsyncIterator["Producer"]:
    """Give a producer to the topics of `prefix`."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, max_request_size=LARGEST_BYTES, acks="all")
    await producer.start()
    try:
        yield Producer(producer, prefix)
    finally:
        await producer.stop()


class Producer:
    """Sends records as another service would."""

    def __init__(self, producer: AIOKafkaProducer, prefix: str) -> None:
        self._producer = producer
        self._prefix = prefix

    async def send(self, *events: Published, partition: int | None = None) -> None:
        """Send events as plain JSON, in order, each keyed by its id's owner."""
        for one in events:
            data: Mapping[str, Any] = one["data"]
            key = data.get("order_id") or data.get("cart_id") or data["product_id"]
            await self.raw(one["topic"], body(one), key=key.encode(), partition=partition)

    async def raw(
        self,
        topic: str,
        value: bytes | None,
        headers: Headers = (),
        *,
        key: bytes | None = b"k",
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> tuple[int, int]:
        """Send one record as it is; returns its partition and offset."""
        sent = await self._producer.send_and_wait(
            self._prefix + topic,
            value,
            key=key,
            headers=list(headers),
            partition=partition,
            timestamp_ms=timestamp_ms,
        )
        return sent.partition, sent.offset


async def read(bootstrap_servers: str, topic: str, at_least: int) -> list[ConsumerRecord]:
    """Return a topic's records once there are so many, each partition's in order."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap_servers,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=LARGEST_BYTES,
    )
    await consumer.start()
    try:
        found: list[ConsumerRecord] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(found) < at_least:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found.extend(records)
        # One more look, so that what should not be there is seen as well.
        for records in (await consumer.getmany(timeout_ms=300)).values():
            found.extend(records)
        return found
    finally:
        await consumer.stop()


async def committed(bootstrap_servers: str, prefix: str) -> dict[TopicPartition, int]:
    """Return what the worker's group has committed."""
    async with _looking(bootstrap_servers, f"{prefix}group") as consumer:
        offsets = {partition: await consumer.committed(partition) for partition in _partitions(prefix)}
        return {partition: offset for partition, offset in offsets.items() if offset}


async def ends(bootstrap_servers: str, prefix: str) -> dict[TopicPartition, int]:
    """Return where the worker's partitions end, of those that have records."""
    async with _looking(bootstrap_servers) as consumer:
        offsets = await consumer.end_offsets(_partitions(prefix))
        return {partition: offset for partition, offset in offsets.items() if offset}


def _partitions(prefix: str) -> list[TopicPartition]:
    return [TopicPartition(prefix + topic, number) for topic in TOPICS_IN for number in range(4)]


@asynccontextmanager
async def _looking(bootstrap_servers: str, group_id: str | None = None) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, group_id=group_id, enable_auto_commit=False)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def eventually(
    condition: Callable[[], Awaitable[Any]], *, seconds: float = PATIENCE_SECONDS, why: str = ""
) -> Any:
    """Return what the condition returns once that is true; fail after the bound."""
    until = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < until, f"waited {seconds:.0f} s in vain: {why or condition}"
        await asyncio.sleep(0.05)
    return found


def now_plus(seconds: float) -> datetime:
    """Return the wall clock's time, shifted."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


def dated(published: Iterable[Published], at: datetime) -> list[Published]:
    """Return the events as if they had happened at `at`."""
    return [one | {"occurred_at": at} for one in published]
