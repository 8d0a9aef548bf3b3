"""The embedded Kafka-protocol broker: librdkafka's mock cluster, from a wheel.

It starts in half a second. Its limits: one member per consumer group (the second one's SyncGroup fails), data in memory
only, four partitions per topic, no admin API.

It runs in its own process, so that it takes no time from the program that uses it: `python -m dev.servers.kafka_mock
ADDRESS_FILE` writes `host:port` to the file and serves until SIGTERM.
"""

import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from dev.servers.errors import ServersError
from dev.servers.process import ServerProcess, scratch_directory

DESCRIPTION = "embedded mock cluster (one member per group, in memory, no admin API)"
READY_TIMEOUT_SECONDS = 60.0

_REPOSITORY = Path(__file__).parents[2]


class MockBroker:
    """A running mock cluster of one broker; stopping it loses its data."""

    kind: Literal["mock"] = "mock"
    description = DESCRIPTION

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        address_file = directory / "address"
        self._process = ServerProcess(
            "the embedded Kafka broker",
            [sys.executable, "-m", "dev.servers.kafka_mock", str(address_file)],
            log=directory / "broker.log",
            environment={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
            leash_signal=signal.SIGKILL,
        )
        self._process.wait_until(address_file.exists, READY_TIMEOUT_SECONDS)
        self.bootstrap_servers = address_file.read_text()

    def stop(self) -> None:
        """End the broker; its data is lost."""
        self._process.end(signal.SIGTERM)

    def close(self) -> None:
        """End the broker and remove its scratch directory."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


def start() -> MockBroker:
    """Start the mock cluster.

    Raises:
        ServersError: it did not start.
    """
    return MockBroker(scratch_directory("kafka-mock"))


def serve(address_file: Path) -> None:
    """Start the cluster, write its address, and wait for SIGTERM."""
    from confluent_kafka import cimpl  # noqa: PLC0415 - only the broker's own process loads librdkafka

    # By the C functions: the client setting `test.mock.num.brokers` starts the same cluster, but with an initial
    # rebalance delay of three seconds, which is wasted where groups have one member.
    library = ctypes.CDLL(cimpl.__file__)
    pointer = ctypes.c_void_p
    new_client = _function(library, "rd_kafka_new", pointer, ctypes.c_int, pointer, pointer, ctypes.c_size_t)
    new_cluster = _function(library, "rd_kafka_mock_cluster_new", pointer, pointer, ctypes.c_int)
    addresses = _function(library, "rd_kafka_mock_cluster_bootstraps", ctypes.c_char_p, pointer)
    set_delay = _function(library, "rd_kafka_mock_group_initial_rebalance_delay_ms", None, pointer, ctypes.c_int32)
    producer_kind = 0
    cluster = new_cluster(new_client(producer_kind, None, None, 0), 1)
    if cluster is None:
        raise ServersError("librdkafka did not start its mock cluster")
    set_delay(cluster, 0)
    partial = address_file.with_suffix(".partial")
    partial.write_text(addresses(cluster).decode())
    partial.rename(address_file)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:  # noqa: ANN401 - C types
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    serve(Path(sys.argv[1]))
