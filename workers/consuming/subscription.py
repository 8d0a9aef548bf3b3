"""All of FastStream: its broker, the one batch subscriber over all topics, and the options they run with.

FastStream starts and stops the Kafka client and calls the handler. How it decodes headers and commits offsets is
replaced here; the reason stands beside each.
"""

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from typing_extensions import override

from workers.consuming import lenient_headers
from workers.consuming.client import RecordClient

BATCH_TIMEOUT_MS = 200
# Interval at which added partitions and recreated topics are noticed; no watermark passes the refresh before the last.
METADATA_MAX_AGE_MS = 2000
# Read ahead of each partition, while another one is further behind. Kafka returns a larger record all the same.
PARTITION_FETCH_BYTES = 256 * 1024


class ConsumerOptions(NamedTuple):
    """What the consumer needs to know of the deployment."""

    topics: Sequence[str]
    prefix: str
    group_id: str
    batch_max_records: int
    session_timeout_ms: int
    heartbeat_interval_ms: int
    rebalance_timeout_ms: int
    fetch_max_wait_ms: int
    anchor_lifetime_seconds: float = 3600.0

    def full_topics(self) -> list[str]:
        """Return the topics as Kafka knows them, with their prefix."""
        return [self.prefix + topic for topic in self.topics]


class Broker(KafkaBroker):
    """FastStream's broker, whose subscribers read through the client that `make_client` returns."""

    make_client: Callable[..., AIOKafkaConsumer] = AIOKafkaConsumer

    @override
    async def connect(self) -> Any:
        """Connect, and replace the client class: FastStream chooses it here, with the options of the connection."""
        connection = await super().connect()
        config = self.config.broker_config
        chosen: partial[AIOKafkaConsumer] = config.builder  # type: ignore[assignment] # what FastStream makes it
        config.builder = partial(self.make_client, **chosen.keywords)
        return connection


def build_broker(bootstrap_servers: Sequence[str], *, graceful_timeout: float, **options: Any) -> Broker:  # noqa: ANN401 - FastStream's options
    """Return FastStream's broker: it runs the consumer; its own producer is not used."""
    return Broker(
        bootstrap_servers,
        graceful_timeout=graceful_timeout,
        logger=None,
        apply_types=False,
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
        **options,
    )


class Subscription:
    """The one batch subscriber; `client` is its Kafka client while FastStream runs it."""

    def __init__(self) -> None:
        self._subscriber: Any = None

    @property
    def client(self) -> RecordClient | None:
        """The Kafka client, or None while there is none."""
        return None if self._subscriber is None else self._subscriber.consumer

    def register(
        self,
        broker: Broker,
        options: ConsumerOptions,
        on_batch: Callable[[list[Any]], Awaitable[None]],
        make_client: Callable[..., RecordClient],
        listener: ConsumerRebalanceListener,
    ) -> None:
        """Subscribe to all topics: `on_batch` gets raw records, read by the client that `make_client` returns."""
        lenient_headers.install()
        broker.make_client = make_client
        self._subscriber = broker.subscriber(
            *options.full_topics(),
            group_id=options.group_id,
            batch=True,
            max_records=options.batch_max_records,
            batch_timeout_ms=BATCH_TIMEOUT_MS,
            # We commit offsets ourselves, after the transaction, up to what was applied. FastStream's ack, and a
            # commit without arguments, commit the position, which is ahead of that.
            ack_policy=AckPolicy.MANUAL,
            # The client is placed (`placement`) before it reads, and again when Kafka lost what comes next.
            auto_offset_reset="none",
            isolation_level="read_committed",
            # Partition i of every topic goes to one worker, so that one process sees all events of an order.
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=options.session_timeout_ms,
            heartbeat_interval_ms=options.heartbeat_interval_ms,
            rebalance_timeout_ms=options.rebalance_timeout_ms,
            fetch_max_wait_ms=options.fetch_max_wait_ms,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            listener=listener,
            parser=parse_raw,
            decoder=decode_raw,
            no_reply=True,
        )
        self._subscriber(on_batch)


async def parse_raw(records: tuple[ConsumerRecord, ...], original: Any) -> KafkaMessage:  # noqa: ANN401 - FastStream's parser
    """Wrap the batch without touching the records' headers.

    FastStream's parser decodes every header as UTF-8 before the handler runs: one null or binary header loses the whole
    batch. It gets a copy of the first record without headers instead.
    """
    message: KafkaMessage = await original((dataclasses.replace(records[0], headers=()),))
    message.raw_message = records
    return message


async def decode_raw(message: KafkaMessage) -> list[ConsumerRecord]:
    """Return the raw records; nothing here can fail."""
    return list(message.raw_message)
