"""The embedded servers: their addresses, crashes, restarts and clean-up."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka.admin import AdminClient
from redis.asyncio import Redis

from dev.servers import kafka as kafka_brokers
from dev.servers import postgres as postgres_servers
from dev.servers import redis as redis_servers
from dev.servers.kafka import Broker
from dev.servers.kafka_jvm import JvmBroker
from dev.servers.postgres import PostgresServer
from dev.servers.process import scratch_directory
from dev.servers.redis import RedisServer
from schemas.topics import TOPICS_IN, TOPICS_OUT, TOPICS_STATE, dlq_topic

REPOSITORY = Path(__file__).parent.parent.parent
WAIT_SECONDS = 30.0


async def test_each_test_has_a_migrated_database_of_its_own(database_url: str, postgres: PostgresServer) -> None:
    """A test writes to its own copy, not to the template."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("CREATE TABLE mine (id int)")
        migrated = await connection.fetchval("SELECT to_regclass('inventory') IS NOT NULL")
    finally:
        await connection.close()
    assert migrated
    assert postgres.sql("SELECT to_regclass('mine') IS NULL", database="migrated") == "t"


async def test_blank_database_has_no_tables(blank_database_url: str) -> None:
    """A blank database was never migrated."""
    connection = await asyncpg.connect(blank_database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    finally:
        await connection.close()


async def test_redis_is_empty_for_each_test(redis_url: str, redis_server: RedisServer) -> None:
    """Flushing removes what an earlier test wrote."""
    async with Redis.from_url(redis_url) as client:
        await client.set("left", "behind")
        redis_server.flush()
        assert await client.dbsize() == 0


@pytest.mark.parametrize("name", ["kafka", "kafka_mock"])
async def test_a_record_comes_back_from_the_broker(name: str, request: pytest.FixtureRequest) -> None:
    """Each kind of broker returns key, value and headers as they were sent."""
    broker: Broker = request.getfixturevalue(name)
    topic = f"roundtrip-{uuid.uuid4().hex}"
    await _send(broker.bootstrap_servers, topic, b"1")
    assert await _read(broker.bootstrap_servers, topic, 1) == [(b"k1", b"1", (("h", b"\xff\x00"),))]


async def test_topics_of_the_contracts_are_there_with_four_partitions(kafka: Broker, topics: str) -> None:
    """The `topics` fixture makes every topic under the test's own prefix."""
    found = AdminClient({"bootstrap.servers": kafka.bootstrap_servers}).list_topics(timeout=WAIT_SECONDS).topics
    contracts = [*TOPICS_IN, *TOPICS_OUT, *TOPICS_STATE, *map(dlq_topic, TOPICS_IN)]
    expected = {f"{topics}{topic}": 4 for topic in contracts}
    assert expected == {name: len(topic.partitions) for name, topic in found.items() if name.startswith(topics)}


async def test_two_members_share_a_group_on_real_kafka(real_kafka: Broker, group_id: str) -> None:
    """Real Kafka gives each of two members its share of the partitions; the mock cluster cannot."""
    topic = f"shared-{uuid.uuid4().hex}"
    await _send(real_kafka.bootstrap_servers, topic, b"1")
    address = real_kafka.bootstrap_servers
    # A member learns of a rebalance with its next heartbeat.
    members = [
        AIOKafkaConsumer(topic, bootstrap_servers=address, group_id=group_id, heartbeat_interval_ms=100)
        for _ in range(2)
    ]
    try:
        for member in members:
            await member.start()
        await _until(lambda: [len(member.assignment()) for member in members] == [2, 2])
    finally:
        for member in members:
            await member.stop()


@pytest.mark.parametrize(
    ("environment", "outcome"),
    [
        ({}, "1 skipped"),
        ({"CI": "true"}, "1 error"),
        ({"INVENTORY_REQUIRE_KAFKA": "1"}, "1 error"),
        ({"INVENTORY_TEST_KAFKA": "127.0.0.1:1"}, "1 error"),
    ],
    ids=["laptop", "CI", "required", "named"],
)
def test_missing_real_kafka_skips_on_a_laptop_and_fails_in_ci(environment: dict[str, str], outcome: str) -> None:
    """Without Java and Docker, tests of real Kafka are skipped, unless real Kafka is required."""
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-q", "-k", "two_members_share"],
        capture_output=True,
        check=False,
        cwd=REPOSITORY,
        # An empty path and no engine at Docker's address leave only the mock cluster.
        env={"PATH": "", "DOCKER_HOST": "unix:///nonexistent", "HOME": os.environ.get("HOME", "/"), **environment},
        text=True,
    )
    assert outcome in finished.stdout.splitlines()[-1]


async def test_postgres_keeps_committed_rows_over_an_immediate_stop() -> None:
    """A crash loses no committed row, and the server restarts at the same address."""
    server = postgres_servers.start()
    try:
        url = server.url
        server.sql("CREATE TABLE kept AS SELECT 7 AS value", database="inventory")
        server.stop("immediate")
        assert not server.running
        server.start()
        assert (url, "7") == (server.url, server.sql("SELECT value FROM kept", database="inventory"))
        assert server.sql("SHOW fsync") == "on"
    finally:
        server.close()


def test_postgres_in_a_given_directory_is_found_again() -> None:
    """A given directory keeps data and password from one server to the next."""
    # Other accounts cannot enter pytest's folders, and as root PostgreSQL runs under another account.
    directory = scratch_directory("kept")
    first = postgres_servers.start(directory)
    first.sql("CREATE TABLE kept AS SELECT 7 AS value", database="inventory")
    first.close()
    second = postgres_servers.start(directory)
    try:
        assert second.sql("SELECT value FROM kept", database="inventory") == "7"
    finally:
        second.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root cannot run PostgreSQL itself")
def test_postgres_runs_where_its_account_cannot_reach_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, programs that the other account cannot reach are copied to where it can run them."""
    reachable = postgres_servers._may_run  # noqa: SLF001 - stands in for a checkout under a closed home directory

    def closed_wheel(program: Path, arguments: list[str | Path], account: str) -> bool:
        return program.name != "postgres" and reachable(program, arguments, account)

    monkeypatch.setattr(postgres_servers, "_may_run", closed_wheel)
    server = postgres_servers.start(fsync=False)
    try:
        copied = Path(psutil.Process(server.pid).exe())
        assert copied.is_relative_to(server.directory)
    finally:
        server.close()


async def test_redis_comes_back_empty_at_the_same_address() -> None:
    """A restart of Redis loses its keys and keeps its address."""
    server = redis_servers.start()
    url = server.url
    try:
        async with Redis.from_url(url) as client:
            await client.set("key", "value")
        server.stop()
        server.start()
        async with Redis.from_url(url) as client:
            assert await client.get("key") is None
    finally:
        server.close()


@pytest.fixture(scope="module")
def jvm_broker(real_kafka: Broker) -> Iterator[JvmBroker]:
    """A JVM broker for this module to crash."""
    if real_kafka.kind != "jvm":
        pytest.skip("the broker here is not a local JVM")
    broker = kafka_brokers.jvm()
    yield broker
    broker.close()


@pytest.mark.parametrize("end", [JvmBroker.kill, JvmBroker.stop])
async def test_jvm_broker_keeps_acknowledged_records(end: Callable[[JvmBroker], None], jvm_broker: JvmBroker) -> None:
    """A killed or stopped broker restarts on its port with every acknowledged record."""
    topic = f"kept-{uuid.uuid4().hex}"
    address = jvm_broker.bootstrap_servers
    await _send(address, topic, b"before")
    await asyncio.to_thread(end, jvm_broker)
    assert not jvm_broker.running
    await asyncio.to_thread(jvm_broker.start)
    assert address == jvm_broker.bootstrap_servers
    assert [value for _, value, _ in await _read(address, topic, 1)] == [b"before"]


async def test_jvm_broker_can_be_frozen_and_thawed(jvm_broker: JvmBroker) -> None:
    """SIGSTOP holds back the acknowledgement of a record until SIGCONT."""
    topic = f"frozen-{uuid.uuid4().hex}"
    await _send(jvm_broker.bootstrap_servers, topic, b"first")
    os.kill(jvm_broker.pid, signal.SIGSTOP)
    try:
        sending = asyncio.create_task(_send(jvm_broker.bootstrap_servers, topic, b"second"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(sending), 1.0)
    finally:
        os.kill(jvm_broker.pid, signal.SIGCONT)
    await asyncio.wait_for(sending, WAIT_SECONDS)
    assert [value for _, value, _ in await _read(jvm_broker.bootstrap_servers, topic, 2)] == [b"first", b"second"]


def test_servers_end_with_a_program_that_is_killed() -> None:
    """After SIGKILL no server process and no directory is left."""
    source = """
import sys
from dev.servers import postgres, redis
for server in (postgres.start(), redis.start()):
    print(server.pid, server.directory, flush=True)
sys.stdin.read()
"""
    program = subprocess.Popen(
        [sys.executable, "-c", source],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        if program.stdout is None:
            raise AssertionError
        started = [program.stdout.readline().split() for _ in range(2)]
        program.kill()
    pids = [int(pid) for pid, _ in started]
    deadline = time.monotonic() + WAIT_SECONDS
    while any(psutil.pid_exists(pid) for pid in pids) or any(Path(directory).exists() for _, directory in started):
        assert time.monotonic() < deadline, "the watcher did not clean up"
        time.sleep(0.05)


async def _send(address: str, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all")
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, key=b"k1", headers=[("h", b"\xff\x00")], partition=0)
    finally:
        await producer.stop()


async def _read(address: str, topic: str, count: int) -> list[tuple[bytes, bytes, tuple[tuple[str, bytes], ...]]]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            return [(r.key, r.value, tuple(r.headers)) for r in [await consumer.getone() for _ in range(count)]]
    finally:
        await consumer.stop()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - the state is the client library's, which has no event to wait for
            await asyncio.sleep(0.05)
