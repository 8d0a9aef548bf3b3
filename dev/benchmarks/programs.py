"""The measured programs: how to start them, and how to time them from the backlog's appearance to its last commit."""

import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from dev.benchmarks.backlog import Backlog, Progress, Topics
from dev.benchmarks.errors import BenchmarkError
from dev.servers.process import ServerProcess, environment_without_settings
from schemas.topics import TOPICS_IN
from storage.database import connect
from storage.stream import Position, raise_positions

ROOT = Path(__file__).parents[2]
# A poll costs the broker well under a millisecond; a run takes seconds.
POLL_SECONDS = 0.05
_PENDING = "SELECT EXISTS (SELECT FROM outbox WHERE published_at IS NULL)"


@dataclass(frozen=True, slots=True)
class Program:
    """How to run a program: its module, number of processes, and consumer group members per process."""

    name: str
    module: Sequence[str]
    processes: int = 1
    members_each: int = 1
    relays: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


def worker(processes: int = 1, batch: int | None = None, roles: str | None = None) -> Program:
    """Return the worker as `inventory run` starts it, with default settings unless given."""
    environment = {} if batch is None else {"INVENTORY_BATCH_MAX_RECORDS": str(batch)}
    options = [] if roles is None else ["--roles", roles]
    return Program("worker", ["inventory", "run", *options], processes, environment=environment)


def naive() -> Program:
    """Return the naive implementation; its process has one subscriber per topic."""
    return Program("naive", ["dev.benchmarks.naive"], members_each=len(TOPICS_IN), relays=False)


@dataclass(frozen=True, slots=True)
class Timed:
    """One measurement."""

    events: int
    seconds: float

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds


async def begin_where_the_group_begins(topics: Topics, group: str, database_url: str) -> None:
    """Store the group's offsets as the database's positions, so that events of earlier rounds are not read.

    The worker believes its database, and reads a topic from the beginning into one that knows no position.
    """
    positions = [
        Position(name.removeprefix(topics.prefix), number, offset)
        for (name, number), offset in topics.committed(group).items()
    ]
    connection = await connect(database_url, "inventory-bench")
    try:
        await raise_positions(connection, positions)
    finally:
        await connection.close()


@contextmanager
def running(program: Program, topics: Topics, group: str, database_url: str) -> Iterator[list[ServerProcess]]:
    """Run a program's processes for the duration of the block."""
    environment = {
        **clean_environment(),
        "INVENTORY_KAFKA_BOOTSTRAP_SERVERS": topics.bootstrap_servers,
        "INVENTORY_KAFKA_TOPIC_PREFIX": topics.prefix,
        "INVENTORY_KAFKA_GROUP_ID": group,
        "INVENTORY_DATABASE_URL": database_url,
        "INVENTORY_HTTP_HOST": "127.0.0.1",
        "INVENTORY_HTTP_PORT": "0",
        **program.environment,
    }
    with tempfile.TemporaryDirectory(prefix="inventory-bench-") as scratch, contextlib.ExitStack() as stack:
        processes = []
        for number in range(program.processes):
            process = ServerProcess(
                program.name,
                [sys.executable, "-m", *program.module],
                log=Path(scratch) / f"{program.name}-{number}.log",
                environment=environment,
            )
            stack.callback(process.end, signal.SIGTERM)
            processes.append(process)
        yield processes


def clean_environment() -> dict[str, str]:
    """Return an environment without settings of the worker, in which this checkout's packages are imported."""
    return {**environment_without_settings(), "PYTHONPATH": str(ROOT)}


def check_alive(processes: Sequence[ServerProcess]) -> Callable[[], None]:
    """Return a function that raises if one of the processes has ended."""

    def check() -> None:
        for process in processes:
            if not process.running:
                end = process.log.read_text(errors="replace")[-2000:]
                raise BenchmarkError(f"{process.name} ended while it was measured; the end of its log:\n{end}")

    return check


async def time_program(
    program: Program,
    topics: Topics,
    backlog: Backlog,
    database_url: str,
    progress: Progress,
    *,
    watch: Callable[[Sequence[ServerProcess]], Awaitable[None]] | None = None,
) -> Timed:
    """Time a program from revealing the backlog until all is committed and, if it relays, published.

    `watch` runs concurrently and is cancelled at the end.
    """
    await begin_where_the_group_begins(topics, backlog.group, database_url)
    with running(program, topics, backlog.group, database_url) as processes:
        alive = check_alive(processes)
        topics.wait_until_stable(backlog.group, program.processes * program.members_each, alive)
        watching = None if watch is None else asyncio.ensure_future(watch(processes))
        backlog.reveal()
        started = time.perf_counter()
        await finished(program, topics, backlog, database_url, alive, progress)
        seconds = time.perf_counter() - started
        if watching is not None:
            watching.cancel()
    await _check_work(database_url, backlog.count)
    return Timed(backlog.count, seconds)


async def finished(
    program: Program,
    topics: Topics,
    backlog: Backlog,
    database_url: str,
    alive: Callable[[], None],
    progress: Progress,
) -> None:
    """Wait until the group has committed everything and, if the program relays, the outbox is published."""
    connection = await asyncpg.connect(database_url)
    try:
        while left := topics.remaining(backlog):
            alive()
            progress(f"{program.name} running", backlog.count - min(left, backlog.count), backlog.count)
            await asyncio.sleep(POLL_SECONDS)
        while program.relays and await connection.fetchval(_PENDING):
            alive()
            await asyncio.sleep(POLL_SECONDS)
        progress(f"{program.name} running", backlog.count, backlog.count)
    finally:
        await connection.close()


async def _check_work(database_url: str, events: int) -> None:
    """Raise unless every event is in the inbox, so that a program cannot be fast by dropping events."""
    connection = await asyncpg.connect(database_url)
    try:
        applied, dead_lettered = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM inbox), (SELECT count(*) FROM dead_letters)"
        )
    finally:
        await connection.close()
    if applied != events:
        raise BenchmarkError(
            f"{events:,} events were sent, but {applied:,} are in the inbox and {dead_lettered:,} were dead-lettered"
        )
