"""The servers of the runs: real Kafka as the other tests have it, and a PostgreSQL and a Redis that may be broken."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.chaos.cluster import POSTGRES_SETTINGS, Servers
from dev.chaos.run import Options, Result, run
from dev.servers import postgres, redis
from dev.servers.kafka import Broker

SEED = 7
# Kafka belongs to the whole test run and is left alone; so is what takes long. `make chaos` makes all of them.
FAULTS = frozenset(
    {"kill_worker", "stop_worker", "restart_postgres", "cut_commits", "cut_connections", "stop_redis", "poison_burst"}
)


@pytest.fixture(scope="package")
def servers(real_kafka: Broker) -> Iterator[Servers]:
    """Servers that a run may break."""
    database = postgres.start(settings=POSTGRES_SETTINGS)
    cache = redis.start()
    yield Servers(real_kafka, database, cache)
    cache.close()
    database.close()


@pytest.fixture(scope="package")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers' logs go."""
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture(scope="package")
def result(servers: Servers, directory: Path) -> Result:
    """What a short seeded run came to."""
    return asyncio.run(run(servers, Options(SEED, 12.0, 120.0, directory, FAULTS), lambda _: None))
