"""The servers of the tests: each starts once, on first use; each test has its own database, topics and group.

PostgreSQL and Redis always come from wheels. Kafka is the best broker of the machine (`dev.servers.kafka.choose`).
Without real Kafka, tests that need it are skipped. They fail instead with CI=true or INVENTORY_REQUIRE_KAFKA=1, and
where INVENTORY_TEST_KAFKA names a broker that does not answer.
"""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import settings
from typing_extensions import override
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from dev.servers import kafka as kafka_brokers
from dev.servers import postgres as postgres_servers
from dev.servers import redis as redis_servers
from dev.servers.errors import ServersError
from dev.servers.kafka import Broker, Choice
from dev.servers.kafka_mock import MockBroker
from dev.servers.postgres import PostgresServer
from dev.servers.redis import RedisServer
from tests.leaks import collect_leaks, forget_what_is_loaded

__all__ = ["collect_leaks"]

# How long an example takes says nothing on a busy machine. The mutation run has a profile of its own.
if settings.get_current_profile_name() == "default":
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")

_TEMPLATE_DATABASE = "migrated"
_ADMIN_TIMEOUT_SECONDS = 10.0
_choice = pytest.StashKey[Choice]()
_CHAOS = "tests/acceptance/chaos/"


@dataclass(frozen=True, slots=True)
class _Found:
    """The broker that was started, or the reason why there is none."""

    broker: Broker | None
    missing: str


def pytest_configure(config: pytest.Config) -> None:
    """Choose the broker once."""
    config.stash[_choice] = kafka_brokers.choose()


def pytest_report_header(config: pytest.Config) -> str:
    """Name the broker that the tests will use."""
    return f"broker: {config.stash[_choice].description}"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """Keep the tests of a file in one process, and those that share the chaos run."""
    return _Scheduling(config, log)


class _Scheduling(LoadFileScheduling):  # type: ignore[misc] # published without types
    @override
    def _split_scope(self, nodeid: str) -> str:
        return _CHAOS if nodeid.startswith(_CHAOS) else str(super()._split_scope(nodeid))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """PostgreSQL without fsync: faster, and safe unless the machine itself crashes.

    Tests that measure or crash servers start their own with `dev.servers.postgres.start()`, which syncs to disk.
    """
    server = postgres_servers.start(fsync=False)
    yield server
    server.close()


@pytest.fixture(scope="session")
def template_database(postgres: PostgresServer) -> str:
    """The name of a migrated, empty database; each test gets a copy."""
    from storage.migrate import upgrade  # noqa: PLC0415 - only tests with a database pay for alembic

    postgres.sql(f"CREATE DATABASE {_TEMPLATE_DATABASE}")
    upgrade(postgres.database_url(_TEMPLATE_DATABASE))
    return _TEMPLATE_DATABASE


@pytest.fixture
def database_url(postgres: PostgresServer, template_database: str) -> Iterator[str]:
    """The URL of a migrated, empty database for this test."""
    yield from _new_database(postgres, template_database)


@pytest.fixture
def blank_database_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a database for this test that was never migrated."""
    yield from _new_database(postgres, "template0")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Redis for the whole session; tests that stop Redis start their own."""
    server = redis_servers.start()
    yield server
    server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a Redis database that is empty when the test starts."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture(scope="session")
def real_kafka(request: pytest.FixtureRequest) -> Broker:
    """Apache Kafka; without it the test is skipped on a laptop and fails in CI."""
    found: _Found = request.getfixturevalue("_started_kafka")
    if found.broker is not None:
        return found.broker
    if _real_kafka_required():
        pytest.fail(f"real Kafka is required here: {found.missing}", pytrace=False)
    pytest.skip(f"needs real Kafka: {found.missing}")


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Broker:
    """The best broker available: real Kafka, or else (never in CI) the embedded mock cluster."""
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
    """A unique prefix for topic names (INVENTORY_KAFKA_TOPIC_PREFIX)."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture
def group_id() -> str:
    """A unique consumer group."""
    return f"group-{uuid.uuid4().hex[:10]}"


@pytest.fixture
async def topics(kafka: Broker, topic_prefix: str) -> AsyncIterator[str]:
    """All topics of the contracts on `kafka`, created as by `inventory topics create`; the value is their prefix.

    The mock cluster has no admin API and creates topics when their metadata is requested.
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
    """Start the chosen broker once, and keep the reason if that fails."""
    choice = request.config.stash[_choice]
    found = _Found(None, f"this machine has only the {choice.description}")
    if choice.real:
        try:
            found = _Found(kafka_brokers.start(choice), "")
        except ServersError as error:
            found = _Found(None, str(error))
    yield found
    if found.broker is not None:
        found.broker.close()


def _real_kafka_required() -> bool:
    """Whether a missing broker is a failure: in CI, on request, and if a named one does not answer."""
    asked = any(os.environ.get(name, "").lower() in {"1", "true", "yes"} for name in ("CI", "INVENTORY_REQUIRE_KAFKA"))
    return asked or bool(os.environ.get(kafka_brokers.EXTERNAL_VARIABLE))


def _new_database(server: PostgresServer, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.database_url(name)
    # FORCE: a failed test may leave connections open, and its own failure is the one to report.
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")


def pytest_collection_finish() -> None:
    """Make the collection after each test cheap."""
    forget_what_is_loaded()
