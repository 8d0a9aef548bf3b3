"""The programs that are measured: started, made ready, timed from the backlog's appearance to its last commit."""

import asyncio
import contextlib
import os
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
from dev.servers.process import ServerProcess
from schemas.topics import TOPICS_IN

ROOT = Path(__file__).parents[2]
# One look costs the broker well under a millisecond; a run takes seconds.
POLL_SECONDS = 0.05
_PENDING = "SELECT EXISTS (SELECT FROM outbox WHERE published_at IS NULL)"


@dataclass(frozen=True, slots=True)
class Program:
    """How to run a contestant: its command, how often, and the members that one process has in the group."""

    name: str
    module: Sequence[str]
    processes: int = 1
    members_each: int = 1
    relays: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


def worker(processes: int = 1, batch: int | None = None, roles: str | None = None) -> Program:
    """Return the real worker, as `inventory run` starts it, with default settings."""
    environment = {} if batch is None else {"INVENTORY_BATCH_MAX_RECORDS": str(batch)}
    options = [] if roles is None else ["--roles", roles]
    return Program("worker", ["inventory", "run", *options], processes, environment=environment)


def naive() -> Program:
    """Return what a user would otherwise write; one process has a subscriber for each topic."""
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


@contextmanager
def running(program: Program, topics: Topics, group: str, database_url: str) -> Iterator[list[ServerProcess]]:
    """Run a program's processes inside the block."""
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
    """Return this process's environment without settings of the worker, and with this checkout's packages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INVENTORY_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def check_alive(processes: Sequence[ServerProcess]) -> Callable[[], None]:
    """Return a function that raises when one of the processes has ended."""

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
    """Time a program from the moment it can see the backlog until all is committed and, if it relays, published.

    `watch` runs beside it and is cancelled at the end.
    """
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
    """Return when the group has committed everything and, if the program relays, the outbox is empty."""
    connection = await asyncpg.connect(database_url)
    try:
        while left := topics.remaining(backlog):
            alive()
            progress(f"{program.name} at work", backlog.count - min(left, backlog.count), backlog.count)
            await asyncio.sleep(POLL_SECONDS)
        while program.relays and await connection.fetchval(_PENDING):
            alive()
            await asyncio.sleep(POLL_SECONDS)
        progress(f"{program.name} at work", backlog.count, backlog.count)
    finally:
        await connection.close()


async def _check_work(database_url: str, events: int) -> None:
    """Raise unless every event was judged: a contestant that drops some is not fast."""
    connection = await asyncpg.connect(database_url)
    try:
        judged, given_up = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM inbox), (SELECT count(*) FROM dead_letters)"
        )
    finally:
        await connection.close()
    if judged != events:
        raise BenchmarkError(f"{events:,} events were sent, but {judged:,} were judged and {given_up:,} given up")
