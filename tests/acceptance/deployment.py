"""Runs the program as its users do: commands and workers are processes, observed through Kafka and PostgreSQL.

Imports nothing of the program, and reads topics with another client than the worker's.
"""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from dev.records import ConsumedRecord
from dev.servers import leash
from dev.servers.process import LOOPBACK, environment_without_settings, free_port

ROOT = Path(__file__).parents[2]
COMMAND_TIMEOUT_SECONDS = 90.0
READY_TIMEOUT_SECONDS = 120.0
STOP_TIMEOUT_SECONDS = 40.0
SETTLE_TIMEOUT_SECONDS = 120.0
REQUEST_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.1
LOG_TAIL_CHARACTERS = 4000
LARGEST_RECORD_BYTES = 8 * 1024 * 1024

Headers = list[tuple[str, bytes | None]]


class Finished(NamedTuple):
    """Exit code and output of a command."""

    code: int
    output: str
    errors: str


class Deployment:
    """A group of workers with its topics and database; `close()` ends what still runs."""

    def __init__(self, bootstrap_servers: str, database_url: str, directory: Path, prefix: str | None = None) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.database_url = database_url
        self.prefix = f"t{uuid.uuid4().hex[:10]}." if prefix is None else prefix
        self.group_id = f"group-{uuid.uuid4().hex[:10]}"
        self.workers: list[Worker] = []
        self._directory = directory
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        self._created: list[str] = []

    # --- the program ------------------------------------------------------------------------------

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a command: this deployment's settings in place of the caller's."""
        ours = clean_environment(
            INVENTORY_KAFKA_BOOTSTRAP_SERVERS=self.bootstrap_servers,
            INVENTORY_KAFKA_TOPIC_PREFIX=self.prefix,
            INVENTORY_KAFKA_GROUP_ID=self.group_id,
            INVENTORY_KAFKA_TOPIC_PARTITIONS="4",
            INVENTORY_DATABASE_URL=self.database_url,
        )
        return ours | variables

    def inventory(self, *arguments: str, **variables: str) -> Finished:
        """Run a command to its end."""
        return inventory(*arguments, environment=self.environment(**variables))

    def must(self, *arguments: str, **variables: str) -> str:
        """Run a command, assert that it succeeds, and return its output."""
        finished = self.inventory(*arguments, **variables)
        assert finished.code == 0, f"{arguments} left with {finished.code}: {finished.errors}\n{self.describe()}"
        return finished.output

    def create_topics(self) -> None:
        """Create every topic of the contracts, with `inventory topics create`."""
        table = self.must("topics", "create")
        self._created = re.findall(r"^(\S+)\s+created", table, re.MULTILINE)

    def start_worker(self, **variables: str) -> "Worker":
        """Start `inventory run` without waiting; `Worker.wait_ready()` waits."""
        worker = Worker(self._directory / f"worker-{len(self.workers) + 1}.log", self.environment(**variables))
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        """End the workers that still run and delete the topics."""
        for worker in self.workers:
            worker.kill()
        self.delete_topics(*self._created)

    def delete_topics(self, *names: str) -> None:
        """Delete topics; missing ones are ignored."""
        for deleted in self._admin.delete_topics(list(names)).values() if names else ():
            with contextlib.suppress(KafkaException):
                deleted.result(REQUEST_TIMEOUT_SECONDS)

    # --- observation ------------------------------------------------------------------------------

    def query(self, sql: str, *arguments: object) -> list[Any]:
        """Return the rows of a query."""
        return asyncio.run(_query(self.database_url, sql, arguments))

    def value(self, sql: str, *arguments: object) -> Any:
        """Return the one value of a query."""
        return self.query(sql, *arguments)[0][0]

    def producer(self) -> Any:
        """Return an idempotent producer that accepts large records."""
        return Producer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "enable.idempotence": True,
                "message.max.bytes": LARGEST_RECORD_BYTES,
                "linger.ms": 5,
                # The broker may end first; do not log that.
                "log_level": 2,
            }
        )

    def read(self, *topics: str) -> list[ConsumedRecord]:
        """Return every record of the topics, ordered by partition and offset."""
        with consumer(self.bootstrap_servers, f"reader-{uuid.uuid4().hex}") as reader:
            ends = {
                place: end
                for place, (first, end) in _bounds(reader, [self.prefix + topic for topic in topics]).items()
                if first < end
            }
            reader.assign([TopicPartition(topic, partition, 0) for topic, partition in ends])
            messages: list[ConsumedRecord] = []
            deadline = time.monotonic() + COMMAND_TIMEOUT_SECONDS
            while ends:
                assert time.monotonic() < deadline, f"could not read these partitions to their ends: {ends}"
                for record in reader.consume(1000, timeout=0.2):
                    assert record.error() is None, record.error()
                    messages.append(_consumed(record, self.prefix))
                for place in reader.position([TopicPartition(*place) for place in ends]):
                    if place.offset >= ends[place.topic, place.partition]:
                        del ends[place.topic, place.partition]
        return sorted(messages, key=lambda record: record.position)

    def lag(self, *topics: str) -> int:
        """Return how many records of the topics the workers' group has not committed yet."""
        with consumer(self.bootstrap_servers, self.group_id) as member:
            bounds = _bounds(member, [self.prefix + topic for topic in topics])
            committed = member.committed([TopicPartition(*place) for place in bounds], timeout=REQUEST_TIMEOUT_SECONDS)
            done = {(place.topic, place.partition): place.offset for place in committed}
            return sum(end - max(first, done[place]) for place, (first, end) in bounds.items())

    def settle(self, *topics: str, timeout_seconds: float = SETTLE_TIMEOUT_SECONDS) -> None:
        """Wait until every record of the topics is applied and committed, and all outgoing rows are published."""
        wait_until(lambda: self.lag(*topics) == 0, timeout_seconds, "every record is committed", self.describe)
        wait_until(
            lambda: (
                self.value(
                    "SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL)"
                    " + (SELECT count(*) FROM dead_letters WHERE published_at IS NULL)"
                )
                == 0
            ),
            timeout_seconds,
            "outbox and dead letters are published",
            self.describe,
        )

    def describe(self) -> str:
        """Return the ends of the workers' logs."""
        return "\n".join(worker.tail() for worker in self.workers)


class Worker:
    """A process of `inventory run`."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "inventory", "run"],
                env={**environment, "INVENTORY_HTTP_PORT": str(self.port)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        leash.hold(self._process.pid, signal.SIGKILL)

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def wait_ready(self) -> "Worker":
        """Wait until it reports that it is ready."""
        wait_until(
            lambda: self._must_run() and self.get("/readyz")[0] == 200,
            READY_TIMEOUT_SECONDS,
            "the worker is ready",
            self.tail,
        )
        return self

    def get(self, path: str) -> tuple[int, str]:
        """Send a GET request to the worker; status 0 means no answer."""
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def events(self) -> dict[str, int]:
        """Return the count of events by outcome, from the metric `inventory_events_total`."""
        counts: dict[str, int] = {}
        for line in self.get("/metrics")[1].splitlines():
            found = re.fullmatch(r'inventory_events_total\{outcome="(\w+)",.*\} (\S+)', line)
            if found is not None:
                counts[found[1]] = counts.get(found[1], 0) + int(float(found[2]))
        return counts

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._ended(STOP_TIMEOUT_SECONDS)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()
        self._ended(REQUEST_TIMEOUT_SECONDS)

    def log(self) -> str:
        """Return all that the worker printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def tail(self) -> str:
        """Return the end of what the worker printed."""
        return f"--- {self._log.name}\n{self.log()[-LOG_TAIL_CHARACTERS:]}"

    def _must_run(self) -> bool:
        assert self.running, f"the worker ended with {self._process.returncode}\n{self.tail()}"
        return True

    def _ended(self, timeout_seconds: float) -> int:
        code = self._process.wait(timeout_seconds)
        leash.release(self._process.pid)
        return code


def clean_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without the program's settings, and with the given ones."""
    return environment_without_settings() | variables


def inventory(
    *arguments: str, environment: Mapping[str, str], timeout_seconds: float = COMMAND_TIMEOUT_SECONDS
) -> Finished:
    """Run a command of the program to its end."""
    finished = subprocess.run(
        [sys.executable, "-m", "inventory", *arguments],
        env=dict(environment),
        capture_output=True,
        check=False,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout_seconds,
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr)


def wait_until(
    condition: Callable[[], bool], timeout_seconds: float, what: str, describe: Callable[[], str] = lambda: ""
) -> None:
    """Wait until the condition holds; on time-out fail with what was waited for."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_seconds:g} s: {what}\n{describe()}"
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def consumer(bootstrap_servers: str, group_id: str) -> Any:
    """Give a consumer that neither joins its group nor commits."""
    opened = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": group_id,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    try:
        yield opened
    finally:
        opened.close()


def existing_topics(bootstrap_servers: str) -> set[str]:
    """Return the names of all topics of the cluster."""
    return set(
        AdminClient({"bootstrap.servers": bootstrap_servers}).list_topics(timeout=REQUEST_TIMEOUT_SECONDS).topics
    )


def _bounds(reader: Any, topics: Sequence[str]) -> dict[tuple[str, int], tuple[int, int]]:
    """Return the first and the end offset of every partition."""
    bounds: dict[tuple[str, int], tuple[int, int]] = {}
    for topic in topics:
        for partition in reader.list_topics(topic, timeout=REQUEST_TIMEOUT_SECONDS).topics[topic].partitions:
            place = TopicPartition(topic, partition)
            bounds[topic, partition] = reader.get_watermark_offsets(place, timeout=REQUEST_TIMEOUT_SECONDS)
    return bounds


def _consumed(record: Any, prefix: str) -> ConsumedRecord:
    return ConsumedRecord(
        record.topic().removeprefix(prefix),
        record.partition(),
        record.offset(),
        record.timestamp()[1],
        record.key(),
        record.value(),
        list(record.headers() or ()),
    )


async def _query(database_url: str, sql: str, arguments: Sequence[object]) -> list[Any]:
    connection = await asyncpg.connect(database_url)
    try:
        return list(await connection.fetch(sql, *arguments))
    finally:
        await connection.close()
