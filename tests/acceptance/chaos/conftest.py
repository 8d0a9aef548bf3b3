"""The servers of the runs: the session's real Kafka, and a PostgreSQL and a Redis to break."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.chaos.cluster import POSTGRES_SETTINGS, Servers
from dev.chaos.run import Options, Result, run
from dev.servers import postgres, redis
from dev.servers.kafka import Broker

SEED = 7
# Not Kafka, which all tests share, and none of the slow faults; `make chaos` injects all of them.
FAULTS = frozenset(
    {"kill_worker", "stop_worker", "restart_postgres", "cut_commits", "cut_connections", "stop_redis", "poison_burst"}
)


@pytest.fixture(scope="package")
def servers(real_kafka: Broker) -> Iterator[Servers]:
    """Servers for a run to break."""
    database = postgres.start(settings=POSTGRES_SETTINGS)
    cache = redis.start()
    yield Servers(real_kafka, database, cache)
    cache.close()
    database.close()


@pytest.fixture(scope="package")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the workers' logs."""
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture(scope="package")
def result(servers: Servers, directory: Path) -> Result:
    """The result of a short seeded run."""
    options = Options(SEED, 12.0, 120.0, directory, FAULTS, kinds_at_least=3)
    return asyncio.run(run(servers, options, lambda _: None))
