"""Chooses and starts a Kafka broker.

Real brokers in order of preference: the one named by INVENTORY_TEST_KAFKA, Docker, a local JVM. Failing these, the
embedded mock cluster, with the limits listed in `dev.servers.kafka_mock`.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from dev.servers import kafka_docker, kafka_jvm, kafka_mock
from dev.servers.errors import ServersError

Kind = Literal["external", "docker", "jvm", "mock"]

EXTERNAL_VARIABLE = "INVENTORY_TEST_KAFKA"


class Broker(Protocol):
    """A running broker."""

    @property
    def kind(self) -> Kind:
        """How the broker runs."""

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients."""

    @property
    def description(self) -> str:
        """The broker's description for reports."""

    def stop(self) -> None:
        """Stop the broker."""

    def close(self) -> None:
        """Stop the broker and remove its data."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A broker that this machine offers, not started yet."""

    kind: Kind
    description: str

    @property
    def real(self) -> bool:
        """Whether it is Apache Kafka: groups of many members, data on disk, an admin API."""
        return self.kind != "mock"


@dataclass(frozen=True, slots=True)
class ExternalBroker:
    """A broker that others run; we never stop it."""

    bootstrap_servers: str
    kind: Literal["external"] = "external"

    @property
    def description(self) -> str:
        """The broker's description for reports."""
        return f"Kafka at {self.bootstrap_servers}, from {EXTERNAL_VARIABLE}"

    def stop(self) -> None:
        """Leave the broker as it is."""

    def close(self) -> None:
        """Leave the broker as it is."""


def choose() -> Choice:
    """Return the best broker that this machine offers, without starting it."""
    address = os.environ.get(EXTERNAL_VARIABLE)
    if address:
        return Choice("external", ExternalBroker(address).description)
    if kafka_docker.available():
        return Choice("docker", kafka_docker.DESCRIPTION)
    if kafka_jvm.available():
        return Choice("jvm", kafka_jvm.DESCRIPTION)
    return Choice("mock", kafka_mock.DESCRIPTION)


def start(choice: Choice | None = None) -> Broker:
    """Start the chosen broker, by default the best one available.

    Raises:
        ServersError: the broker could not be reached or started.
    """
    match (choice or choose()).kind:
        case "external":
            return external()
        case "docker":
            return docker()
        case "jvm":
            return jvm()
        case "mock":
            return mock()


def external() -> ExternalBroker:
    """Return the broker named by INVENTORY_TEST_KAFKA.

    Raises:
        ServersError: it is not set, or nothing answers there.
    """
    address = os.environ.get(EXTERNAL_VARIABLE, "")
    host, _, port = address.partition(",")[0].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ServersError(f"no Kafka answers at {EXTERNAL_VARIABLE}={address!r}: {error}") from error
    return ExternalBroker(address)


def docker() -> kafka_docker.DockerBroker:
    """Start Apache Kafka in a container.

    Raises:
        ServersError: no Docker engine answers, or the container did not become ready.
    """
    return kafka_docker.start()


def jvm(directory: Path | None = None) -> kafka_jvm.JvmBroker:
    """Start Apache Kafka on the local JVM, with its data in `directory` (kept) or a scratch directory (removed).

    Raises:
        ServersError: Java, Maven or the jars are missing, or the broker did not become ready.
    """
    return kafka_jvm.start(directory)


def mock() -> kafka_mock.MockBroker:
    """Start the embedded mock cluster.

    Raises:
        ServersError: it did not start.
    """
    return kafka_mock.start()
