"""The composition root of `inventory api`: settings -> pool, cache, keys -> the API's port, and the port of its health.

A stop closes the API's port first, lets the requests under way finish, and only then closes the connections.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import asyncpg
from prometheus_client import make_asgi_app
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from api.app import serve_app
from api.auth import Authenticator
from api.gather import Gatherer, GatherLimits
from api.keys import FixedKeys, IssuerKeys, KeySource, read_jwks_file, secret_key
from api.pages import Cursors
from api.services import Limits, Services
from api.watching import Watchers, WatchLimits
from engine.reading import StockReader
from engine.tasks import BatchResult
from inventory import telemetry
from inventory.cache import open_cache
from inventory.database import connection, require_migrated, unreachable
from inventory.errors import OperatorError
from inventory.health import DatabaseProbe, probe_database
from inventory.http_port import HttpPort
from inventory.policy import policy_of
from inventory.settings import Settings
from inventory.signals import stop_on_signals
from inventory.tokens import token_rules
from inventory.variables import variable
from inventory.wiring import service_version, utc_now
from storage.answers import read_cursor_key
from storage.cache import Cache
from storage.database import Pool, open_pool
from workers.cache import CacheRefresher

logger = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 5.0


async def run(settings: Settings) -> None:
    """Serve the API until SIGTERM or SIGINT; a second signal stops at once.

    Raises OperatorError when PostgreSQL or the keys cannot be used at the start.
    """
    stop = asyncio.Event()
    telemetry.configure_traces(service_version())
    with stop_on_signals(stop):
        async with serving(settings):
            await stop.wait()
            logger.info("Stopping: requests under way are answered first")


class Ports:
    """Where the API and its health are served."""

    __slots__ = ("api", "health")

    def __init__(self, api: int, health: int) -> None:
        self.api = api
        self.health = health


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Ports]:
    """Serve the API inside the block; on leaving it, stop in order."""
    authenticator = Authenticator(key_source(settings), token_rules(settings))
    async with connection(settings) as opened:
        await require_migrated(opened)
        cursors = Cursors(await read_cursor_key(opened))
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(_pool(settings))
        cache = await stack.enter_async_context(open_cache(settings))
        wait_seconds = settings.api_wait.total_seconds()
        limits = Limits(
            settings.cart_reservation_ttl,
            settings.api_max_cart_ttl,
            wait_seconds,
            settings.api_stream_lifetime.total_seconds(),
        )
        watchers = Watchers(pool, WatchLimits(settings.api_max_watches), wait_seconds)
        after_commit = await stack.enter_async_context(_refreshing(cache))
        policy = policy_of(settings)
        gatherer = Gatherer(pool, policy, _gather_limits(settings), utc_now, after_commit)
        stack.push_async_callback(gatherer.close)
        services = Services(
            pool, StockReader(pool, cache, utc_now), cursors, limits, gatherer, policy, utc_now, after_commit, watchers
        )
        origins = [part.strip() for part in settings.api_cors_origins.split(",") if part.strip()]
        probe = probe_database(settings.database_url)
        stack.push_async_callback(probe.close)
        health = await stack.enter_async_context(
            _listening(health_app(probe), HttpPort(settings.http_host, settings.http_port), settings)
        )
        api = await stack.enter_async_context(
            _listening(
                serve_app(services, authenticator, origins),
                HttpPort(settings.api_host, settings.api_listen_port, "api_listen_port"),
                settings,
            )
        )
        # First of all: the port's end waits for the requests under way.
        stack.push_async_callback(watchers.stop)
        logger.info("Ready: API on port %d, health on port %d", api, health)
        yield Ports(api, health)
    logger.info("Stopped")


def key_source(settings: Settings) -> KeySource:
    """Return where tokens' keys come from; raises OperatorError where nothing is set or the file is unusable."""
    if settings.api_hs256_secret is not None:
        return FixedKeys([secret_key(settings.api_hs256_secret.get_secret_value())])
    if settings.api_jwks_url is not None:
        return IssuerKeys(settings.api_jwks_url)
    if settings.api_jwks_file is None:
        sources = " or ".join(variable(field) for field in ("api_jwks_url", "api_jwks_file"))
        raise OperatorError(
            f"the API cannot verify tokens: set {sources}, or for development {variable('api_hs256_secret')}"
        )
    try:
        return read_jwks_file(settings.api_jwks_file)
    except (OSError, ValueError) as error:
        raise OperatorError(f"{variable('api_jwks_file')}: {settings.api_jwks_file} cannot be used: {error}") from error


def health_app(probe: DatabaseProbe) -> ASGIApp:
    """Return the application of /livez, /readyz and /metrics: alive is answering, ready is reaching the database."""

    async def livez(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> PlainTextResponse:
        reason = await probe.why_unavailable()
        return PlainTextResponse(f"{reason or 'ok'}\n", 200 if reason is None else 503)

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Mount("/metrics", make_asgi_app())])


@asynccontextmanager
async def _pool(settings: Settings) -> AsyncIterator[Pool]:
    try:
        pool = await open_pool(settings.database_url, settings.database_pool_size, "inventory-api")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise unreachable(settings, error) from error
    try:
        yield pool
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await pool.close()


def _gather_limits(settings: Settings) -> GatherLimits:
    """Return the bounds of the writes; half of the connections are left for reading."""
    return GatherLimits(
        settings.api_queue_limit, settings.api_batch_max_requests, max(1, settings.database_pool_size // 2)
    )


@asynccontextmanager
async def _refreshing(cache: Cache | None) -> AsyncIterator[Callable[[BatchResult], None]]:
    """Give what is called after each commit, and keep the cache up to date inside the block."""
    if cache is None:
        yield lambda _result: None
        return
    refresher = CacheRefresher(cache, utc_now)
    task = asyncio.create_task(refresher.run(), name="cache")
    try:
        yield refresher.after_commit
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def _listening(app: ASGIApp, port: HttpPort, settings: Settings) -> AsyncIterator[int]:
    """Serve an application inside the block; gives its port."""
    await port.serve(app, max(1, int(settings.shutdown_timeout.total_seconds())))
    try:
        yield port.port
    finally:
        await port.close()
