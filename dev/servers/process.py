"""Child processes: servers that end with this process at the latest, and tools that run to their end."""

import contextlib
import importlib.util
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dev.servers import leash
from dev.servers.errors import ServerFailedError, ServersError

LOOPBACK = "127.0.0.1"

# Below the ephemeral range, so that no outgoing connection takes the port of a stopped server.
_FIRST_PORT = 15_000
_LAST_PORT = 32_000
_PORT_ATTEMPTS = 100
_POLL_SECONDS = 0.01
_MESSAGE_CHARACTERS = 2000


def free_port() -> int:
    """Return a loopback TCP port that is free at this moment."""
    for _ in range(_PORT_ATTEMPTS):
        port = random.randint(_FIRST_PORT, _LAST_PORT)  # noqa: S311 - spreads parallel runs, hides nothing
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As servers do; otherwise a connection in TIME_WAIT makes a free port look taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
            return port
    raise ServersError(f"no free TCP port between {_FIRST_PORT} and {_LAST_PORT} in {_PORT_ATTEMPTS} attempts")


def answers(port: int) -> bool:
    """Tell whether something accepts TCP connections on this loopback port."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def scratch_directory(name: str) -> Path:
    """Create a directory for a server; it is removed when this process ends, at the latest."""
    directory = Path(tempfile.mkdtemp(prefix=f"inventory-{name}-"))
    leash.remove_later(directory)
    return directory


def wheel_directory(package: str) -> Path:
    """Return the directory of an installed wheel that contains a server, without running its import-time set-up."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ServersError(f"the wheel {package} is not installed; install the extra `embedded`")
    return Path(found.origin).parent


def environment_without_settings() -> dict[str, str]:
    """Return this process's environment without settings of the worker."""
    return {name: value for name, value in os.environ.items() if not name.startswith("INVENTORY_")}


def run_tool(command: Sequence[str | Path], failure: str, timeout_seconds: float, **options: Any) -> str:  # noqa: ANN401 - options of subprocess.run
    """Run a tool to its end and return its output; raise ServersError with `failure` and its message otherwise."""
    finished = subprocess.run(command, capture_output=True, check=False, text=True, timeout=timeout_seconds, **options)
    if finished.returncode != 0:
        message = (finished.stderr.strip() or finished.stdout.strip())[-_MESSAGE_CHARACTERS:]
        raise ServersError(f"{failure}: {message}")
    return str(finished.stdout).strip()


class ServerProcess:
    """A running server; its output goes to `log`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        account: str | None = None,
        leash_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment,
                user=account,
                extra_groups=None if account is None else (),
                # Ctrl-C must not reach the servers before the program that uses them is done.
                start_new_session=True,
            )
        leash.hold(self.pid, leash_signal)

    @property
    def pid(self) -> int:
        """The process id, for signals such as SIGSTOP."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status as `subprocess` gives it; None while the process runs."""
        return self._process.poll()

    def wait_until(self, ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Wait until `ready()`; raise ServerFailedError if the server ends or is not ready in time."""
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            if not self.running:
                self.reap()
                raise ServerFailedError(self.name, f"ended with status {self._process.returncode}", self.log)
            if time.monotonic() > deadline:
                self.kill()
                raise ServerFailedError(self.name, f"was not ready within {timeout_seconds:.0f} s", self.log)
            time.sleep(_POLL_SECONDS)

    def end(self, signal_number: signal.Signals, timeout_seconds: float = 30.0) -> None:
        """Send a signal and wait for the end; kill the server if it has not ended by the time-out."""
        if self.running:
            self._process.send_signal(signal_number)
            # A server held by SIGSTOP handles the signal only when it continues.
            self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self.reap()

    def kill(self) -> None:
        """Kill the server."""
        self.end(signal.SIGKILL)

    def reap(self) -> None:
        """Collect the exit status: no zombie stays, and the watcher forgets the id."""
        self._process.wait()
        leash.release(self.pid)
