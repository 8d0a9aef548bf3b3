"""The demo's processes: the embedded servers, the worker and the audit."""

import asyncio
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
from dev.servers.process import LOOPBACK, ServerProcess, environment_without_settings, free_port, scratch_directory

READY_SECONDS: Final = 60.0
READY_POLL_SECONDS: Final = 0.05
STOP_SECONDS: Final = 30.0

# Short times to live, so that 20 seconds show what otherwise takes hours.
SETTINGS: Final = {
    "INVENTORY_ORDER_RESERVATION_TTL": "4s",
    "INVENTORY_CART_RESERVATION_TTL": "5s",
    "INVENTORY_PARKED_EVENT_TTL": "4s",
    "INVENTORY_LOG_FORMAT": "human",
    # The embedded broker answers a fetch only when this time is over, even if records arrived meanwhile.
    "INVENTORY_KAFKA_FETCH_MAX_WAIT_MS": "10",
}
SETTINGS_IN_WORDS: Final = "orders hold stock for 4 s, carts for 5 s"

_REPOSITORY: Final = Path(__file__).parents[2]
_LABEL_WIDTH: Final = 66

Say = Callable[[str], None]


class WorkerFailedError(ServerFailedError):
    """The worker did not start, ended unexpectedly, or did not shut down cleanly."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Addresses of the embedded servers, and the environment for programs that use them."""

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
        """Return the environment of the demo's programs, with the demo's settings in place of the user's."""
        return {**environment_without_settings(), "PYTHONPATH": str(_REPOSITORY), **SETTINGS, **self.variables()}


async def start_servers(stack: AsyncExitStack, say: Say) -> Servers:
    """Start all three concurrently; they end with the stack, or at the latest with this process."""

    async def start(label: str, function: Callable[[], Any]) -> Any:  # noqa: ANN401 - three kinds of server
        with timed(say, label):
            server = await asyncio.to_thread(function)
        stack.push_async_callback(asyncio.to_thread, server.close)
        return server

    database, cache, broker = await asyncio.gather(
        start("PostgreSQL 18, embedded", postgres.start),
        start("Redis, embedded", redis.start),
        start("Kafka: mock broker, embedded (in memory, one group member)", kafka.mock),
    )
    return Servers(database.url, cache.url, broker.bootstrap_servers)


class WorkerProcess:
    """A process of `inventory run`."""

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
        """Wait until `ready()` is true; raise WorkerFailedError if the worker ends first or it takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while not await ready():
            self._check()
            if time.monotonic() > deadline:
                raise WorkerFailedError("the worker", f"was not ready within {READY_SECONDS:.0f} s", self.log)
            await asyncio.sleep(READY_POLL_SECONDS)

    async def watch(self) -> None:
        """Run until the worker ends unexpectedly, then raise WorkerFailedError."""
        while True:
            self._check()
            await asyncio.sleep(READY_POLL_SECONDS)

    async def stop(self) -> None:
        """Shut the worker down; raise WorkerFailedError unless it exits with status 0."""
        await asyncio.to_thread(self._process.end, signal.SIGTERM, STOP_SECONDS)
        if self._process.status != 0:
            raise WorkerFailedError("the worker", f"exited with status {self._process.status}", self.log)

    async def end(self) -> None:
        """End the worker if it still runs, whatever its exit status."""
        if self._process.running:
            await asyncio.to_thread(self._process.end, signal.SIGTERM, STOP_SECONDS)

    def _check(self) -> None:
        if not self._process.running:
            raise WorkerFailedError("the worker", f"ended with status {self._process.status}", self.log)


async def run_audit(servers: Servers) -> tuple[bool, str]:
    """Run `inventory audit`; returns whether it passed, and what it printed."""
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
        raise ServersError(f"`inventory audit` could not run: {errors.decode().strip()}")
    return process.returncode == 0, output.decode().strip()


@contextmanager
def timed(say: Say, label: str) -> Iterator[None]:
    """Print the label and how long the block took, when it is done."""
    began = time.monotonic()
    yield
    say(f"  {label:<{_LABEL_WIDTH}}{time.monotonic() - began:5.1f} s")
