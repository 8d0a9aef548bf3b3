"""The demo's processes: the embedded servers, the worker, the API and the audit."""

import asyncio
import secrets
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from dev.servers import kafka, postgres, redis
from dev.servers.errors import ServerFailedError, ServersError
from dev.servers.process import LOOPBACK, ServerProcess, environment_without_settings, free_port, scratch_directory

READY_SECONDS: Final = 60.0
READY_POLL_SECONDS: Final = 0.05
STOP_SECONDS: Final = 30.0
TIMEOUT_SECONDS: Final = 2.0

_ORDER_TTL: Final = "INVENTORY_ORDER_RESERVATION_TTL"
# Short times to live, so that 20 seconds show what otherwise takes hours.
SETTINGS: Final = {
    _ORDER_TTL: "4s",
    "INVENTORY_CART_RESERVATION_TTL": "5s",
    "INVENTORY_PARKED_EVENT_TTL": "4s",
    "INVENTORY_LOG_FORMAT": "human",
    # The embedded broker answers a fetch only when this time is over, even if records arrived meanwhile.
    "INVENTORY_KAFKA_FETCH_MAX_WAIT_MS": "10",
}
SETTINGS_IN_WORDS: Final = "orders hold stock for 4 s, carts for 5 s"

API_PREFIX: Final = "/api/v1/inventory"
_REPOSITORY: Final = Path(__file__).parents[2]
_LABEL_WIDTH: Final = 66

Say = Callable[[str], None]


class ProgramFailedError(ServerFailedError):
    """The worker or the API did not start, ended unexpectedly, or did not shut down cleanly."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Addresses of the embedded servers, and the environment for programs that use them."""

    database_url: str
    redis_url: str
    bootstrap_servers: str
    token_secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    def variables(self) -> dict[str, str]:
        """Return the settings that name these servers, and the secret that signs this run's tokens."""
        return {
            "INVENTORY_DATABASE_URL": self.database_url,
            "INVENTORY_REDIS_URL": self.redis_url,
            "INVENTORY_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "INVENTORY_API_HS256_SECRET": self.token_secret,
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


class ProgramProcess:
    """A process of this program that serves, with its health on `port`."""

    def __init__(self, name: str, command: str, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.log = scratch_directory(command) / f"{command}.log"
        self._name = name
        self._process = ServerProcess(
            name,
            [sys.executable, "-m", "inventory", command],
            log=self.log,
            environment={**environment, "INVENTORY_HTTP_HOST": LOOPBACK, "INVENTORY_HTTP_PORT": str(self.port)},
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def wait_until_ready(self) -> None:
        """Wait until it answers that it is ready; raise ProgramFailedError if it ends first or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while await asyncio.to_thread(get, self.port, "/readyz") is None:
            self._check()
            if time.monotonic() > deadline:
                raise ProgramFailedError(self._name, f"was not ready within {READY_SECONDS:.0f} s", self.log)
            await asyncio.sleep(READY_POLL_SECONDS)

    async def watch(self) -> None:
        """Run until the process ends unexpectedly, then raise ProgramFailedError."""
        while True:
            self._check()
            await asyncio.sleep(READY_POLL_SECONDS)

    async def stop(self) -> None:
        """Shut the process down; raise ProgramFailedError unless it exits with status 0."""
        await asyncio.to_thread(self._process.end, signal.SIGTERM, STOP_SECONDS)
        if self._process.status != 0:
            raise ProgramFailedError(self._name, f"exited with status {self._process.status}", self.log)

    async def end(self) -> None:
        """End the process if it still runs, whatever its exit status."""
        if self._process.running:
            await asyncio.to_thread(self._process.end, signal.SIGTERM, STOP_SECONDS)

    def _check(self) -> None:
        if not self._process.running:
            raise ProgramFailedError(self._name, f"ended with status {self._process.status}", self.log)


def start_worker(servers: Servers) -> ProgramProcess:
    """Start `inventory run`."""
    return ProgramProcess("the worker", "run", servers.environment())


def start_api(servers: Servers) -> tuple[ProgramProcess, str]:
    """Start `inventory api`; returns the process and the URL that its paths begin with."""
    port = free_port()
    listening = {"INVENTORY_API_HOST": LOOPBACK, "INVENTORY_API_LISTEN_PORT": str(port)}
    # The shop orders through Kafka. An order over HTTP is a user's, who types slower than the demo's clock runs.
    environment = {name: value for name, value in servers.environment().items() if name != _ORDER_TTL}
    return ProgramProcess("the API", "api", {**environment, **listening}), f"http://{LOOPBACK}:{port}{API_PREFIX}"


def get(port: int, path: str) -> str | None:
    """Send a GET request to a health port; None means no answer, or not a good one."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=TIMEOUT_SECONDS) as answer:
            return str(answer.read().decode())
    except (OSError, HTTPException):  # HTTPException: the process ended in the middle of its answer
        return None


async def run_audit(servers: Servers) -> tuple[bool, str]:
    """Run `inventory audit`; returns whether it passed, and what it printed."""
    code, output = await _run(servers, "audit", good=(0, 1))
    return code == 0, output


async def make_token(servers: Servers, subject: str, role: str) -> str:
    """Run `inventory token` and return the token."""
    return (await _run(servers, "token", "--subject", subject, "--role", role))[1]


async def _run(servers: Servers, *command: str, good: Sequence[int] = (0,)) -> tuple[int, str]:
    """Run a command; returns its exit code and what it printed, or raises ServersError for a code that is not good."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "inventory",
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=servers.environment(),
    )
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    if process.returncode is None or process.returncode not in good:
        raise ServersError(f"`inventory {command[0]}` could not run: {errors.decode().strip()}")
    return process.returncode, output.decode().strip()


@contextmanager
def timed(say: Say, label: str) -> Iterator[None]:
    """Print the label and how long the block took, when it is done."""
    began = time.monotonic()
    yield
    say(f"  {label:<{_LABEL_WIDTH}}{time.monotonic() - began:5.1f} s")
