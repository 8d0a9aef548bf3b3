"""Apache Kafka on the local JVM: a real broker without Docker.

Maven copies the jars that pom.xml names into the user's cache, once per version of that file. Each broker has
its own data directory (KRaft, one node as broker and controller) and free loopback ports.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from dev.servers.errors import ServersError
from dev.servers.kafka_settings import BROKER_SETTINGS, CLUSTER_ID, POM, VERSION
from dev.servers.process import LOOPBACK, ServerProcess, free_port, run_tool, scratch_directory

DESCRIPTION = f"Apache Kafka {VERSION} on the local JVM"
READY_TIMEOUT_SECONDS = 90.0

_OLDEST_JAVA = 17
_FORMAT_TIMEOUT_SECONDS = 60
_DOWNLOAD_TIMEOUT_SECONDS = 600
_API_VERSIONS_KEY = 18
_JVM_OPTIONS = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)


class JvmBroker:
    """A broker; after `kill()` or `stop()`, `start()` resumes with the same port and data."""

    kind: Literal["jvm"] = "jvm"
    description = DESCRIPTION

    def __init__(self, directory: Path | None, jars: Path) -> None:
        self._owns_directory = directory is None
        self.directory = scratch_directory("kafka") if directory is None else directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._java = ["java", *_JVM_OPTIONS, "-cp", f"{jars}/*"]
        self._properties = self.directory / "server.properties"
        self._process: ServerProcess | None = None
        self._write_properties()
        self._format()

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the JVM, for SIGSTOP and SIGCONT."""
        if self._process is None:
            raise ServersError("this Kafka broker is stopped")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the JVM runs."""
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start the broker and wait until it answers requests."""
        if self.running:
            return
        process = ServerProcess(
            "Kafka",
            [*self._java, "kafka.Kafka", str(self._properties)],
            log=self.directory / "kafka.log",
            leash_signal=signal.SIGKILL,
        )
        process.wait_until(lambda: _answers_requests(self.port), READY_TIMEOUT_SECONDS)
        self._process = process

    def stop(self) -> None:
        """Shut the broker down; its data stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the broker, as a crash would; its data stays."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """End the broker, and remove its directory if it is a scratch directory."""
        if self._owns_directory:
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            self.stop()

    def _end(self, signal_number: signal.Signals) -> None:
        if self._process is not None:
            self._process.end(signal_number)
            self._process = None

    def _write_properties(self) -> None:
        controller_port = free_port()
        properties = {
            **BROKER_SETTINGS,
            "listeners": f"CLIENT://{LOOPBACK}:{self.port},CONTROLLER://{LOOPBACK}:{controller_port}",
            "advertised.listeners": f"CLIENT://{LOOPBACK}:{self.port}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
            "log.dirs": str(self.directory / "data"),
        }
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))

    def _format(self) -> None:
        """Format the data directory unless it is formatted already."""
        options = ("--ignore-formatted", "--cluster-id", CLUSTER_ID, "--config", str(self._properties))
        command = [*self._java, "kafka.tools.StorageTool", "format", *options]
        run_tool(command, f"Kafka could not format {self.directory}", _FORMAT_TIMEOUT_SECONDS)


def available() -> bool:
    """Tell whether a broker can be started: Java is new enough, and the jars are cached or Maven can fetch them."""
    if (_java_version() or 0) < _OLDEST_JAVA:
        return False
    return _jars_directory().exists() or shutil.which("mvn") is not None


def start(directory: Path | None = None) -> JvmBroker:
    """Start a broker with its data in `directory` (kept), or in a scratch directory (removed by `close()`).

    The first start on a machine downloads the jars, about 45 MB.

    Raises:
        ServersError: Java, Maven or the jars are missing, or the broker did not become ready.
    """
    version = _java_version()
    if version is None or version < _OLDEST_JAVA:
        raise ServersError(f"Kafka needs Java {_OLDEST_JAVA} or newer, found {version or 'none'}")
    broker = JvmBroker(directory, fetch_jars())
    broker.start()
    return broker


def fetch_jars() -> Path:
    """Return the folder of the broker's jars; Maven fills it the first time.

    Raises:
        ServersError: Maven is missing or could not fetch them.
    """
    target = _jars_directory()
    if target.exists():
        return target
    if shutil.which("mvn") is None:
        raise ServersError("Maven is needed once, to fetch Kafka's jars; on Debian: apt-get install maven")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetching-") as scratch:
        # The goal writes beside its pom, so copy the pom out of the source tree.
        pom = Path(shutil.copy(POM, scratch))
        options = ("--batch-mode", "--quiet", "-DincludeScope=runtime", f"-DoutputDirectory={scratch}/jars")
        command = ["mvn", *options, "--file", str(pom), "dependency:copy-dependencies"]
        run_tool(command, f"Maven could not fetch Kafka {VERSION}", _DOWNLOAD_TIMEOUT_SECONDS)
        # A concurrent run may have finished first, with the same content.
        with contextlib.suppress(OSError):
            (Path(scratch) / "jars").rename(target)
    return target


def _jars_directory() -> Path:
    """Return the cache folder for this version of pom.xml."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    fingerprint = hashlib.sha256(POM.read_bytes()).hexdigest()[:8]
    return cache / "inventory-worker" / f"kafka-{VERSION}-{fingerprint}"


@functools.cache
def _java_version() -> int | None:
    """Return the feature version of `java` on the path, None if there is none."""
    try:
        finished = subprocess.run(
            ["java", "-version"],  # noqa: S607 - the user's own Java
            capture_output=True,
            check=False,
            text=True,
            timeout=30,
        )
    except OSError:
        return None
    found = re.search(r'version "(\d+)', finished.stderr)
    return int(found.group(1)) if found else None


def _answers_requests(port: int) -> bool:
    """Send an ApiVersions request, the smallest there is, and tell whether it is answered."""
    client = b"dev.servers"
    request = struct.pack(f">hhih{len(client)}s", _API_VERSIONS_KEY, 0, 1, len(client), client)
    with (
        contextlib.suppress(OSError),
        socket.create_connection((LOOPBACK, port), timeout=1) as connection,
        connection.makefile("rb") as answer,
    ):
        connection.sendall(struct.pack(">i", len(request)) + request)
        # The answer's length, then the correlation id of the request.
        return answer.read(8)[4:] == struct.pack(">i", 1)
    return False
