"""Ports that this program serves: health and metrics, and the HTTP API."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from faststream.asgi import AsgiFastStream
from faststream.specification import AsyncAPI
from prometheus_client import make_asgi_app
from starlette.types import ASGIApp
from typing_extensions import override

from inventory.errors import OperatorError
from inventory.health import Health
from inventory.variables import variable
from workers.consuming.subscription import Broker


class HttpPort:
    """Serves one application; `port` is the real one where 0 asked for any. `field` is the setting of the port."""

    def __init__(self, host: str, port: int, field: str = "http_port") -> None:
        self._host = host
        self.port = port
        self._field = field
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def open(self, broker: Broker, health: Health, version: str) -> None:
        """Serve /livez, /readyz and /metrics of a worker; raises OperatorError for a port that cannot be opened."""
        # FastStream's application carries the routes.
        app = AsgiFastStream(
            broker,
            asgi_routes=[("/livez", health.livez), ("/readyz", health.readyz), ("/metrics", make_asgi_app())],
            # `as_asgi()` would drop the title.
            specification=AsyncAPI(title="Inventory worker", version=version),
            logger=None,
        )
        await self.serve(app)

    async def serve(self, app: ASGIApp, stop_seconds: int | None = None) -> None:
        """Listen and serve any application; raises OperatorError for a port that cannot be opened.

        `stop_seconds` bounds how long a stop waits for the requests at hand.
        """
        config = uvicorn.Config(
            app,
            host=self._host,
            port=self.port,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=stop_seconds,
        )
        self._server = server = _Server(config)
        listening = _listen(self._host, self.port, self._field)
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


def _listen(host: str, port: int, field: str) -> socket.socket:
    """Open the socket here: uvicorn would end the process if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OperatorError(
            f"port {port} on {host} cannot be opened: {error.strerror or error}; "
            f"set {variable(field)} to a free one (0 picks one)"
        ) from error
