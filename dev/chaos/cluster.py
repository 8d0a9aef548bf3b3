"""The servers of a run, and deployments on them: topics, a database and a consumer group of their own."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dev.chaos.errors import ChaosError
from dev.servers import kafka, postgres, redis
from dev.servers.errors import ServersError
from dev.servers.kafka import Broker
from dev.servers.kafka_jvm import JvmBroker
from dev.servers.postgres import PostgresServer
from dev.servers.postgres_proxy import PostgresProxy
from dev.servers.process import environment_without_settings, run_tool
from dev.servers.redis import RedisServer
from storage import migrate

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
COMMAND_TIMEOUT_SECONDS = 120

# Any commit may be followed by a crash, so durability is as in production.
POSTGRES_SETTINGS = {"fsync": "on", "synchronous_commit": "on", "max_wal_size": "4GB", "shared_buffers": "256MB"}

# Seconds instead of minutes, so that every timeout occurs several times in a run.
TIMING: Mapping[str, str] = {
    "INVENTORY_KAFKA_SESSION_TIMEOUT_MS": "6000",
    "INVENTORY_KAFKA_HEARTBEAT_INTERVAL_MS": "1000",
    "INVENTORY_KAFKA_REBALANCE_TIMEOUT_MS": "10000",
    "INVENTORY_SHUTDOWN_TIMEOUT": "8s",
    "INVENTORY_ORDER_RESERVATION_TTL": "12s",
    "INVENTORY_CART_RESERVATION_TTL": "10s",
    "INVENTORY_PARKED_EVENT_TTL": "45s",
    "INVENTORY_SWEEP_INTERVAL": "0.5s",
    "INVENTORY_AUDIT_INTERVAL": "20s",
    # Poison bursts are part of the run; the flood breaker has its own tests.
    "INVENTORY_DEAD_LETTER_BREAKER_CONSECUTIVE": "20000",
    "INVENTORY_DEAD_LETTER_BREAKER_WINDOW": "20000",
    "INVENTORY_DEAD_LETTER_BREAKER_RATIO": "0.99",
}
ORDER_TTL_SECONDS = 12.0
CART_TTL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Servers:
    """The running servers."""

    kafka: Broker
    postgres: PostgresServer
    redis: RedisServer

    @property
    def broker(self) -> JvmBroker | None:
        """The broker if this run started it and may crash it, else None."""
        return self.kafka if isinstance(self.kafka, JvmBroker) else None


@contextmanager
def open_servers() -> Iterator[Servers]:
    """Start real Kafka, PostgreSQL and Redis in scratch directories.

    Raises:
        ChaosError: this machine offers no real Kafka, or a server did not start.
    """
    choice = kafka.choose()
    if not choice.real:
        raise ChaosError(f"chaos needs real Kafka and this machine offers only the {choice.description}")
    with contextlib.ExitStack() as stack:
        try:
            database = postgres.start(settings=POSTGRES_SETTINGS)
            stack.callback(database.close)
            cache = redis.start()
            stack.callback(cache.close)
            broker = kafka.start(choice)
            stack.callback(broker.close)
        except ServersError as error:
            raise ChaosError(str(error)) from error
        yield Servers(broker, database, cache)


@dataclass(frozen=True, slots=True)
class Deployment:
    """One group of workers: they reach PostgreSQL through the proxy, `database_url` bypasses it."""

    servers: Servers
    proxy: PostgresProxy
    name: str
    directory: Path
    environment: Mapping[str, str] = field(repr=False)

    @property
    def prefix(self) -> str:
        """The prefix of every topic's name."""
        return f"{self.name}."

    @property
    def group_id(self) -> str:
        """The workers' consumer group."""
        return f"{self.name}-workers"

    @property
    def database_url(self) -> str:
        """The database's URL, bypassing the proxy."""
        return self.servers.postgres.database_url(self.name)


@asynccontextmanager
async def open_deployment(
    servers: Servers, name: str, directory: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Deployment]:
    """Create topics and a migrated database called `name`, and start a proxy; `settings` override the workers'."""
    proxy = PostgresProxy(servers.postgres.port)
    await proxy.start()
    try:
        await asyncio.to_thread(servers.postgres.sql, f"CREATE DATABASE {name}")
        url = servers.postgres.database_url(name)
        await asyncio.to_thread(migrate.upgrade, url)
        environment = {
            **environment_without_settings(),
            "PYTHONPATH": str(ROOT),
            "INVENTORY_KAFKA_BOOTSTRAP_SERVERS": servers.kafka.bootstrap_servers,
            "INVENTORY_KAFKA_TOPIC_PREFIX": f"{name}.",
            "INVENTORY_KAFKA_TOPIC_PARTITIONS": str(PARTITIONS),
            "INVENTORY_KAFKA_GROUP_ID": f"{name}-workers",
            "INVENTORY_DATABASE_URL": url.replace(f":{servers.postgres.port}/", f":{proxy.port}/"),
            "INVENTORY_REDIS_URL": servers.redis.url,
            "INVENTORY_HTTP_HOST": "127.0.0.1",
            "INVENTORY_HTTP_PORT": "0",
            "INVENTORY_LOG_FORMAT": "human",
            **TIMING,
            **(settings or {}),
        }
        deployment = Deployment(servers, proxy, name, directory, environment)
        await asyncio.to_thread(_create_topics, deployment)
        yield deployment
    finally:
        await proxy.stop()


def _create_topics(deployment: Deployment) -> None:
    command = [sys.executable, "-m", "inventory", "topics", "create"]
    environment = dict(deployment.environment)
    try:
        run_tool(command, "could not create the topics", COMMAND_TIMEOUT_SECONDS, env=environment)
    except ServersError as error:
        raise ChaosError(str(error)) from error
