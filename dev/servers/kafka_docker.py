"""Apache Kafka in a container, for machines with a Docker engine.

testcontainers is a development dependency and imported on use, so that the demo runs without it.
"""

import functools
import gc
import warnings
from typing import TYPE_CHECKING, Literal

from dev.servers.errors import ServersError
from dev.servers.kafka_settings import BROKER_SETTINGS, CLUSTER_ID, VERSION
from dev.servers.process import free_port

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

IMAGE = f"apache/kafka:{VERSION}"
DESCRIPTION = f"Apache Kafka {VERSION} in Docker"
READY_TIMEOUT_SECONDS = 120

_CLIENT_PORT = 9092
_CONTROLLER_PORT = 9093
_STARTED = "Kafka Server started"


class DockerBroker:
    """A running container; stopping it removes it and its data."""

    kind: Literal["docker"] = "docker"
    description = DESCRIPTION

    def __init__(self, container: "DockerContainer", bootstrap_servers: str) -> None:
        self._container = container
        self.bootstrap_servers = bootstrap_servers

    def stop(self) -> None:
        """Remove the container."""
        self._container.stop()

    def close(self) -> None:
        """Remove the container."""
        self.stop()


@functools.cache
def available() -> bool:
    """Tell whether testcontainers is installed and a Docker engine answers it."""
    try:
        from docker.errors import DockerException  # noqa: PLC0415 - see the module's docstring
        from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415 - see the module's docstring
    except ImportError:
        return False
    with warnings.catch_warnings():
        # Without an engine the client leaks a socket; collect it here, or its warning fails some later test.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return bool(DockerClient().client.ping())
        except (DockerException, OSError):
            return False
        finally:
            gc.collect()


def start() -> DockerBroker:
    """Start a container and wait until the broker logs that it has started.

    Raises:
        ServersError: no Docker engine answers, or the broker did not become ready.
    """
    if not available():
        raise ServersError("no Docker engine answers, or testcontainers is not installed")
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - see the module's docstring
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # noqa: PLC0415 - as above

    container = DockerContainer(IMAGE)
    # The broker advertises its address to clients, so the host port must be known before it starts.
    address = f"{container.get_docker_client().host()}:{free_port()}"
    for name, value in _environment(address).items():
        container.with_env(name, value)
    container.with_bind_ports(_CLIENT_PORT, int(address.rpartition(":")[2]))
    container.waiting_for(LogMessageWaitStrategy(_STARTED).with_startup_timeout(READY_TIMEOUT_SECONDS))
    try:
        container.start()
    except Exception as error:
        # testcontainers raises many types; what matters is Docker's message.
        raise ServersError(f"{IMAGE} did not start: {error}") from error
    return DockerBroker(container, address)


def _environment(address: str) -> dict[str, str]:
    """Return the broker's settings as the image's environment variables."""
    settings = {
        **BROKER_SETTINGS,
        "listeners": f"CLIENT://0.0.0.0:{_CLIENT_PORT},CONTROLLER://localhost:{_CONTROLLER_PORT}",
        "advertised.listeners": f"CLIENT://{address}",
        "controller.quorum.voters": f"1@localhost:{_CONTROLLER_PORT}",
    }
    names = {"KAFKA_" + name.upper().replace(".", "_"): value for name, value in settings.items()}
    return {"CLUSTER_ID": CLUSTER_ID, **names}
