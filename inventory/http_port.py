"""The port for health and metrics."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from faststream.asgi import AsgiFastStream
from faststream.specification import AsyncAPI
from prometheus_client import make_asgi_app
from typing_extensions import override

from inventory.errors import OperatorError
from inventory.health import Health
from workers.consuming.subscription import Broker


class HttpPort:
    """Serves /livez, /readyz and /metrics; `port` is the real one where 0 asked for any."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self.port = port
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def open(self, broker: Broker, health: Health, version: str) -> None:
        """Listen and serve; raises OperatorError for a port that cannot be opened."""
        # FastStream's application carries the routes.
        app = AsgiFastStream(
            broker,
            asgi_routes=[("/livez", health.livez), ("/readyz", health.readyz), ("/metrics", make_asgi_app())],
            # `as_asgi()` would drop the title.
            specification=AsyncAPI(title="Inventory worker", version=version),
            logger=None,
        )
        config = uvicorn.Config(app, host=self._host, port=self.port, lifespan="off", log_config=None, access_log=False)
        self._server = server = _Server(config)
        listening = _listen(self._host, self.port)
        self.port = listening.getsockname()[1]
        self._serving = asyncio.create_task(server.serve(sockets=[listening]), name="http")
        while not server.started:  # noqa: ASYNC110 - uvicorn offers nothing to wait for
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Answer the requests at hand and close the port."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the worker's handlers decide when everything stops."""

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    """Open the socket here: uvicorn would end the process if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OperatorError(
            f"port {port} on {host} cannot be opened: {error.strerror or error}; "
            "set INVENTORY_HTTP_PORT to a free one (0 picks one)"
        ) from error
