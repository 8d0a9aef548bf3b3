"""Builds the parts of a worker from the settings."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version

import asyncpg
from aiokafka.errors import KafkaError

from domain.model import Policy
from engine.tasks import BatchResult
from inventory import kafka
from inventory.database import unreachable
from inventory.settings import Settings
from schemas.topics import TOPICS_IN
from storage.database import Pool, open_pool
from workers.consuming.breaker import FloodBreaker
from workers.consuming.consumer import Consumer
from workers.consuming.subscription import Broker, ConsumerOptions, build_broker
from workers.maintenance import Maintenance, MaintenanceOptions
from workers.publishing.levels import LevelOptions, LevelPublisher
from workers.publishing.relay import Relay, RelayOptions
from workers.sweeper import Sweeper

AfterCommit = Callable[[BatchResult], None]


class Role(StrEnum):
    """A part of the worker that a process may run without the others."""

    CONSUMER = "consumer"
    RELAY = "relay"
    SWEEPER = "sweeper"


def service_version() -> str:
    """Return the version of the installed program."""
    try:
        return version("inventory-worker")
    except PackageNotFoundError:
        return "0+unknown"


def utc_now() -> datetime:
    """Return the time; the parts get this function and read no clock themselves."""
    return datetime.now(UTC)


async def make_pool(settings: Settings) -> Pool:
    """Open the worker's pool; raises OperatorError where PostgreSQL cannot be used."""
    try:
        return await open_pool(settings.database_url, settings.database_pool_size)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise unreachable(settings, error) from error


def make_broker(settings: Settings) -> Broker:
    """Return FastStream's broker, not yet connected."""
    return build_broker(
        settings.kafka_brokers,
        graceful_timeout=settings.shutdown_timeout.total_seconds(),
        security=kafka.broker_security(settings),
        client_id=kafka.CLIENT_ID,
    )


def make_consumer(settings: Settings, pool: Pool, policy: Policy, after_commit: AfterCommit) -> Consumer:
    """Return the consumer of every topic in."""
    return Consumer(
        pool,
        policy,
        ConsumerOptions(
            topics=tuple(TOPICS_IN),
            prefix=settings.kafka_topic_prefix,
            group_id=settings.kafka_group_id,
            batch_max_records=settings.batch_max_records,
            session_timeout_ms=settings.kafka_session_timeout_ms,
            heartbeat_interval_ms=settings.kafka_heartbeat_interval_ms,
            rebalance_timeout_ms=settings.kafka_rebalance_timeout_ms,
            fetch_max_wait_ms=settings.kafka_fetch_max_wait_ms,
            anchor_lifetime_seconds=settings.inbox_retention.total_seconds() / 2,
        ),
        FloodBreaker(
            settings.dead_letter_breaker_consecutive,
            settings.dead_letter_breaker_ratio,
            settings.dead_letter_breaker_window,
        ),
        utc_now,
        after_commit,
    )


def make_relay(settings: Settings) -> Relay:
    """Return the relay; it opens its own connections."""
    return Relay(
        settings.database_url,
        kafka.producer_options(settings),
        RelayOptions(
            prefix=settings.kafka_topic_prefix,
            group_id=settings.kafka_group_id,
            version=service_version(),
            poll_seconds=settings.relay_poll_interval.total_seconds(),
            batch_size=settings.relay_batch_size,
        ),
        utc_now,
    )


def make_level_publisher(settings: Settings) -> LevelPublisher:
    """Return the publisher of `inventory.levels`; it opens its own connections."""
    return LevelPublisher(
        settings.database_url,
        kafka.producer_options(settings),
        LevelOptions(settings.kafka_topic_prefix, settings.levels_max_records_per_second),
    )


@asynccontextmanager
async def level_publisher(settings: Settings) -> AsyncIterator[LevelPublisher]:
    """Give the publisher of `inventory.levels` to a command; raises OperatorError if Kafka cannot be used."""
    publisher = make_level_publisher(settings)
    try:
        yield publisher
    except (KafkaError, TimeoutError) as error:
        raise kafka.unreachable(settings, error) from error
    finally:
        await publisher.close()


def make_sweeper(settings: Settings, pool: Pool, policy: Policy, after_commit: AfterCommit) -> Sweeper:
    """Return the loop that expires holds."""
    return Sweeper(pool, policy, settings.sweep_interval.total_seconds(), utc_now, after_commit)


def make_maintenance(settings: Settings, pool: Pool) -> Maintenance:
    """Return the loop that prunes the inbox and the outbox, and audits."""
    options = MaintenanceOptions(
        settings.inbox_retention,
        settings.outbox_retention,
        settings.retention_interval.total_seconds(),
        settings.audit_interval.total_seconds(),
    )
    return Maintenance(pool, options, utc_now)
