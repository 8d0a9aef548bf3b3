"""One child process that is a server: started, awaited, ended, and never left behind."""

import contextlib
import importlib.util
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dev.servers import leash
from dev.servers.errors import ServerFailedError, ServersError

LOOPBACK = "127.0.0.1"

# Below the range from which systems take the ports of outgoing connections: a stopped server finds its port free again.
_FIRST_PORT = 15_000
_LAST_PORT = 32_000
_PORT_ATTEMPTS = 100
_POLL_SECONDS = 0.01


def free_port() -> int:
    """Return a TCP port on the loopback address that nobody listens on at this moment."""
    for _ in range(_PORT_ATTEMPTS):
        port = random.randint(_FIRST_PORT, _LAST_PORT)  # noqa: S311 - spreads parallel runs, hides nothing
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As the servers do, or a connection in TIME_WAIT makes a free port look taken.
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
    """Make a directory for one server that disappears with this process at the latest."""
    directory = Path(tempfile.mkdtemp(prefix=f"inventory-{name}-"))
    leash.remove_later(directory)
    return directory


def wheel_directory(package: str) -> Path:
    """Return where a wheel with a server in it is installed, without importing it: that would run its own set-up."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ServersError(f"the wheel {package} is not installed; install the extra `embedded`")
    return Path(found.origin).parent


class ServerProcess:
    """A running server; `log` receives all that it prints."""

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
                # Ctrl-C must not reach the servers before the program that uses them has finished with them.
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
        """Return when `ready()` holds; raise ServerFailedError when the server ends or the time is up."""
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
        """Send a signal and wait for the end; a server that ignores it is killed when the time is up."""
        if self.running:
            self._process.send_signal(signal_number)
            # A server that SIGSTOP holds takes the signal only when it runs again.
            self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self.reap()

    def kill(self) -> None:
        """End the server at once, as a power cut would."""
        self.end(signal.SIGKILL)

    def reap(self) -> None:
        """Take the exit status, so that no zombie keeps the id and the watcher forgets it."""
        self._process.wait()
        leash.release(self.pid)
