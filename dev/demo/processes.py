"""Sets the demo up: embedded servers, tables, topics, and the real worker in a process of its own."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dev.servers import kafka, postgres, redis
from dev.servers.errors import ServerFailedError, ServersError
from dev.servers.process import LOOPBACK, ServerProcess, free_port, scratch_directory

READY_SECONDS: Final = 60.0
READY_POLL_SECONDS: Final = 0.05
LEAVE_SECONDS: Final = 30.0

# A shop in a hurry, so that 20 seconds show what else takes hours.
SETTINGS: Final = {
    "INVENTORY_ORDER_RESERVATION_TTL": "4s",
    "INVENTORY_CART_RESERVATION_TTL": "5s",
    "INVENTORY_PARKED_EVENT_TTL": "4s",
    "INVENTORY_LOG_FORMAT": "human",
    # Kafka answers as soon as there is something; the embedded broker only when this time is over.
    "INVENTORY_KAFKA_FETCH_MAX_WAIT_MS": "10",
}
SETTINGS_IN_WORDS: Final = "orders hold stock for 4 s, carts for 5 s"

_REPOSITORY: Final = Path(__file__).parents[2]
_LABEL_WIDTH: Final = 66

Say = Callable[[str], None]


class WorkerFailedError(ServerFailedError):
    """The worker did not start, ended by itself, or did not leave in order."""


@dataclass(frozen=True, slots=True)
class Servers:
    """The embedded servers, and the environment that leads a program to them."""

    database_url: str
    redis_url: str
    bootstrap_servers: str

    def variables(self) -> dict[str, str]:
        """Return the settings that name these servers."""
        return {
            "INVENTORY_DATABASE_URL": self.database_url,
            "INVENTORY_REDIS_URL": self.redis_url,
            "INVENTORY_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
        }

    def environment(self) -> dict[str, str]:
        """Return the environment for our programs: no setting of whoever runs the demo, only those of the demo."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("INVENTORY_")}
        return {**inherited, "PYTHONPATH": str(_REPOSITORY), **SETTINGS, **self.variables()}


async def start_servers(stack: AsyncExitStack, say: Say) -> Servers:
    """Start all three side by side; they end with the stack, or at the latest with this process."""

    async def start(label: str, function: Callable[[], Any]) -> Any:  # noqa: ANN401 - three kinds of server
        with timed(say, label):
            server = await asyncio.to_thread(function)
        stack.push_async_callback(asyncio.to_thread, server.close)
        return server

    database, cache, broker = await asyncio.gather(
        start("PostgreSQL 18, embedded", postgres.start),
        start("Redis, embedded", redis.start),
        start("Kafka: an embedded mock broker (one group member, in memory only)", kafka.mock),
    )
    return Servers(database.url, cache.url, broker.bootstrap_servers)


class WorkerProcess:
    """`inventory run`, as a user starts it."""

    def __init__(self, servers: Servers) -> None:
        self.port = free_port()
        self.log = scratch_directory("worker") / "worker.log"
        self._process = ServerProcess(
            "the worker",
            [sys.executable, "-m", "inventory", "run"],
            log=self.log,
            environment={
                **servers.environment(),
                "INVENTORY_HTTP_HOST": LOOPBACK,
                "INVENTORY_HTTP_PORT": str(self.port),
            },
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def wait_until_ready(self, ready: Callable[[], Any]) -> None:
        """Return when `ready()` says so; raise WorkerFailedError when the worker ends before."""
        deadline = time.monotonic() + READY_SECONDS
        while not await ready():
            self._check()
            if time.monotonic() > deadline:
                raise WorkerFailedError("the worker", f"was not ready within {READY_SECONDS:.0f} s", self.log)
            await asyncio.sleep(READY_POLL_SECONDS)

    async def watch(self) -> None:
        """Raise WorkerFailedError when the worker ends by itself."""
        while True:
            self._check()
            await asyncio.sleep(READY_POLL_SECONDS)

    async def leave(self) -> None:
        """Ask the worker to leave; raise WorkerFailedError when it does not leave in order."""
        await asyncio.to_thread(self._process.end, signal.SIGTERM, LEAVE_SECONDS)
        if self._process.status != 0:
            raise WorkerFailedError("the worker", f"left with status {self._process.status}", self.log)

    async def end(self) -> None:
        """End the worker if it is still there, however it takes it."""
        if self._process.running:
            await asyncio.to_thread(self._process.end, signal.SIGTERM, LEAVE_SECONDS)

    def _check(self) -> None:
        if not self._process.running:
            raise WorkerFailedError("the worker", f"ended with status {self._process.status}", self.log)


async def run_audit(servers: Servers) -> tuple[bool, str]:
    """Run `inventory audit`; returns whether the books agree, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "inventory",
        "audit",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=servers.environment(),
    )
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    if process.returncode not in {0, 1}:
        raise ServersError(f"`inventory audit` could not look at the books: {errors.decode().strip()}")
    return process.returncode == 0, output.decode().strip()


@contextmanager
def timed(say: Say, label: str) -> Iterator[None]:
    """Say what was done and how long it took, once it is done."""
    began = time.monotonic()
    yield
    say(f"  {label:<{_LABEL_WIDTH}}{time.monotonic() - began:5.1f} s")
