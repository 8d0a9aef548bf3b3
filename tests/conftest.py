"""The servers that tests use, each started once and only if a test asks for it; what a test gets of them is its own.

PostgreSQL and Redis always come from wheels. Kafka is the best broker of the machine (`dev.servers.kafka.choose`).
With CI=true or INVENTORY_REQUIRE_KAFKA=1 tests that need real Kafka fail where there is none, and so they do where
INVENTORY_TEST_KAFKA names a broker that does not answer; elsewhere they skip.
"""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from dev.servers import kafka as kafka_brokers
from dev.servers import postgres as postgres_servers
from dev.servers import redis as redis_servers
from dev.servers.errors import ServersError
from dev.servers.kafka import Broker, Choice
from dev.servers.kafka_mock import MockBroker
from dev.servers.postgres import PostgresServer
from dev.servers.redis import RedisServer

_TEMPLATE_DATABASE = "migrated"
_ADMIN_TIMEOUT_SECONDS = 10.0
_choice = pytest.StashKey[Choice]()
_broker = pytest.StashKey["_Found"]()


@dataclass(frozen=True, slots=True)
class _Found:
    """The broker that was started, or why there is no real one."""

    broker: Broker | None
    missing: str


def pytest_configure(config: pytest.Config) -> None:
    """Look once which broker this machine can offer."""
    config.stash[_choice] = kafka_brokers.choose()


def pytest_report_header(config: pytest.Config) -> str:
    """Say in one line which broker the tests will use."""
    return f"broker: {config.stash[_choice].description}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say at the end when the broker of the header could not be used after all."""
    found = config.stash.get(_broker, None)
    if found is not None and found.broker is None:
        terminalreporter.write_line(f"broker: no real Kafka: {found.missing}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """PostgreSQL for plain tests: safe against its own crash, not against the machine's, and faster for it.

    Tests that measure or that crash servers start their own with `dev.servers.postgres.start()`, which syncs to disk.
    """
    server = postgres_servers.start(fsync=False)
    yield server
    server.close()


@pytest.fixture(scope="session")
def template_database(postgres: PostgresServer) -> str:
    """The name of a database with all migrations applied and nothing in it; each test gets a copy."""
    from storage.migrate import upgrade  # noqa: PLC0415 - only tests with a database pay for alembic

    postgres.sql(f"CREATE DATABASE {_TEMPLATE_DATABASE}")
    upgrade(postgres.database_url(_TEMPLATE_DATABASE))
    return _TEMPLATE_DATABASE


@pytest.fixture
def database_url(postgres: PostgresServer, template_database: str) -> Iterator[str]:
    """The address of a migrated, empty database that belongs to this test."""
    yield from _new_database(postgres, template_database)


@pytest.fixture
def blank_database_url(postgres: PostgresServer) -> Iterator[str]:
    """The address of a database of this test's own that was never migrated."""
    yield from _new_database(postgres, "template0")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Redis for the whole run; tests that stop it start their own."""
    server = redis_servers.start()
    yield server
    server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of a Redis database that is empty when the test starts."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture(scope="session")
def real_kafka(request: pytest.FixtureRequest) -> Broker:
    """Apache Kafka; without one the test is skipped on a laptop and fails in CI."""
    found: _Found = request.getfixturevalue("_started_kafka")
    if found.broker is not None:
        return found.broker
    if _real_kafka_required():
        pytest.fail(f"real Kafka is required here: {found.missing}", pytrace=False)
    pytest.skip(f"needs real Kafka: {found.missing}")


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Broker:
    """The best broker there is: real Kafka, or else (never in CI) the embedded mock cluster."""
    found: _Found = request.getfixturevalue("_started_kafka")
    if found.broker is not None or _real_kafka_required():
        return request.getfixturevalue("real_kafka")  # type: ignore[no-any-return]
    return request.getfixturevalue("kafka_mock")  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def kafka_mock() -> Iterator[MockBroker]:
    """The embedded mock cluster: in memory, one member per group, no admin API."""
    broker = kafka_brokers.mock()
    yield broker
    broker.close()


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topic names (INVENTORY_KAFKA_TOPIC_PREFIX) that no other test has."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture
def group_id() -> str:
    """A consumer group that no other test has."""
    return f"group-{uuid.uuid4().hex[:10]}"


@pytest.fixture
async def topics(kafka: Broker, topic_prefix: str) -> AsyncIterator[str]:
    """All topics of the contracts on `kafka`, made as `inventory topics create` makes them; the value is their prefix.

    The mock cluster has no admin API and makes topics when they are first named, so there the names are only asked for.
    """
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - unit tests start without the Kafka clients

    from inventory.kafka import admin_client, topic_layout  # noqa: PLC0415 - same reason
    from inventory.settings import Settings  # noqa: PLC0415 - same reason
    from inventory.topics import create_topics, wanted_topics  # noqa: PLC0415 - same reason

    settings = Settings(
        kafka_bootstrap_servers=kafka.bootstrap_servers, kafka_topic_prefix=topic_prefix, kafka_topic_partitions=4
    )
    names = [topic.name for topic in wanted_topics(topic_layout(settings))]
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    if kafka.kind == "mock":
        for name in names:
            admin.list_topics(name, timeout=_ADMIN_TIMEOUT_SECONDS)
        yield topic_prefix
        return
    await create_topics(lambda: admin_client(settings), topic_layout(settings))
    yield topic_prefix
    for deleted in admin.delete_topics(names, operation_timeout=_ADMIN_TIMEOUT_SECONDS).values():
        deleted.result(_ADMIN_TIMEOUT_SECONDS)


@pytest.fixture(scope="session")
def _started_kafka(request: pytest.FixtureRequest) -> Iterator[_Found]:
    """Start the chosen broker once, and remember why when that fails."""
    choice = request.config.stash[_choice]
    found = _Found(None, f"this machine has only the {choice.description}")
    if choice.real:
        try:
            found = _Found(kafka_brokers.start(choice), "")
        except ServersError as error:
            found = _Found(None, str(error))
    request.config.stash[_broker] = found
    yield found
    if found.broker is not None:
        found.broker.close()


def _real_kafka_required() -> bool:
    """Whether a missing broker is a failure: in CI, on request, and when one is named that does not answer."""
    asked = any(os.environ.get(name, "").lower() in {"1", "true", "yes"} for name in ("CI", "INVENTORY_REQUIRE_KAFKA"))
    return asked or bool(os.environ.get(kafka_brokers.EXTERNAL_VARIABLE))


def _new_database(server: PostgresServer, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.database_url(name)
    # FORCE: a test that fails may leave connections behind, and its failure is the one to be seen.
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")
