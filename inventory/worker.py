"""The composition root of `inventory run`: builds the parts, starts them, and stops them in order.

    settings -> pool, policy -> consumer, relay, sweeper, maintenance, cache -> HTTP port

A stop finishes the batch at hand, commits its offsets, leaves the group, publishes what the outbox
has, and only then closes the connections.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import asyncpg
import uvicorn
from faststream.asgi import AsgiFastStream
from faststream.specification import AsyncAPI
from prometheus_client import make_asgi_app
from typing_extensions import override

from domain.model import Policy
from engine import metrics
from engine.crash import crash_on_bug
from engine.reading import close_quietly
from engine.tasks import BatchResult
from inventory import kafka, telemetry
from inventory.database import connection, require_migrated, unreachable
from inventory.errors import OperatorError
from inventory.health import Health
from inventory.policy import policy_of
from inventory.settings import Settings
from schemas.topics import TOPICS_IN
from storage.cache import Cache
from storage.database import Pool, open_pool
from workers.cache import CacheRefresher
from workers.consuming.breaker import FloodBreaker
from workers.consuming.consumer import Consumer, ConsumerOptions, build_broker
from workers.maintenance import Maintenance, MaintenanceOptions
from workers.publishing.relay import Relay, RelayOptions
from workers.sweeper import Sweeper

logger = logging.getLogger(__name__)

ROLES: Final = ("consumer", "relay", "sweeper")
EXIT_STOPPED_AT_ONCE: Final = 130
FLUSH_SECONDS: Final = 5.0
CANCEL_ATTEMPTS: Final = 5
CANCEL_SECONDS: Final = 1.0
TOPIC_LOOKS: Final = 6
SECONDS_BETWEEN_LOOKS: Final = 0.5


def service_version() -> str:
    """Return the version of the installed program."""
    try:
        return version("inventory-worker")
    except PackageNotFoundError:
        return "0+unknown"


async def run(settings: Settings, roles: Collection[str] = ROLES) -> None:
    """Run a worker until SIGTERM or SIGINT; a second signal stops at once.

    Raises OperatorError when PostgreSQL or Kafka cannot be used at the start.
    """
    stop = asyncio.Event()
    telemetry.configure_traces(service_version())
    _tune_garbage_collection()
    with _signals(stop):
        async with worker(settings, roles):
            await stop.wait()
            logger.info("Stopping: the batch at hand is finished first")


@asynccontextmanager
async def worker(settings: Settings, roles: Collection[str] = ROLES) -> AsyncIterator["Worker"]:
    """Run a worker inside the block; on leaving it, stop it in order."""
    await _check_database(settings)
    if "consumer" in roles:
        await _check_topics(settings)
    running = Worker(settings, roles)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(running.stop)
        await running.start()
        logger.info("Ready: %s on port %d", ", ".join(roles), running.port)
        yield running


class Worker:
    """The parts of one process, and how they start and stop."""

    def __init__(self, settings: Settings, roles: Collection[str]) -> None:
        self._settings = settings
        self._roles = roles
        self._tasks: list[asyncio.Task[None]] = []
        self._pool: Pool | None = None
        self._broker: Any = None
        self._server: uvicorn.Server | None = None
        self._server_task: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[BatchResult], None]] = []
        self.consumer: Consumer | None = None
        self.relay: Relay | None = None
        self._cache: Cache | None = None
        self.port = 0

    async def start(self) -> None:
        """Start everything, the consumer last."""
        settings = self._settings
        policy = policy_of(settings)
        self._pool = pool = await _open_pool(settings)
        if "relay" in self._roles:
            self.relay = self._make_relay()
            self._listeners.append(self._wake_relay)
            self._spawn("relay", self.relay.run())
        if "sweeper" in self._roles:
            seconds = settings.sweep_interval.total_seconds()
            self._spawn("sweeper", Sweeper(pool, policy, seconds, _now, self._after_commit).run())
            self._spawn("housekeeping", Maintenance(pool, _maintenance_options(settings), _now).run())
        if settings.redis_url is not None:
            self._cache = Cache(settings.redis_url)
            refresher = CacheRefresher(self._cache, _now)
            self._listeners.append(refresher.after_commit)
            self._spawn("cache", refresher.run())
        if "consumer" in self._roles:
            self.consumer = self._make_consumer(pool, policy)
        self._broker = build_broker(
            settings.kafka_brokers,
            graceful_timeout=settings.shutdown_timeout.total_seconds(),
            security=kafka.broker_security(settings),
            client_id=kafka.CLIENT_ID,
        )
        await self._serve()
        if self.consumer is not None:
            self.consumer.subscribe(self._broker)
            await self._broker.start()
            self._spawn("consumer's clock", self.consumer.run_ticks())

    async def stop(self) -> None:
        """Stop in order: no more batches, then what they left to publish, then the connections."""
        if self.consumer is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.shutdown_timeout.total_seconds()):
                    await self.consumer.drain()
            await self._broker.stop()
        if self.relay is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self.relay.flush()
        await _end(self._tasks)
        if self._server is not None and self._server_task is not None:
            self._server.should_exit = True
            await self._server_task
        if self._cache is not None:
            await close_quietly(self._cache)
        if self._pool is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._pool.close()
        logger.info("Stopped")

    def _after_commit(self, result: BatchResult) -> None:
        metrics.RESERVATIONS_EXPIRED.inc(result.expired)
        for listener in self._listeners:
            listener(result)

    def _wake_relay(self, result: BatchResult) -> None:
        if self.relay is not None and (result.outgoing or result.dead_letters):
            self.relay.wake(dead_letters=bool(result.dead_letters))

    def _make_consumer(self, pool: Pool, policy: Policy) -> Consumer:
        settings = self._settings
        return Consumer(
            pool,
            policy,
            ConsumerOptions(
                topics=tuple(TOPICS_IN),
                prefix=settings.kafka_topic_prefix,
                group_id=settings.kafka_group_id,
                batch_max_records=settings.batch_max_records,
                session_timeout_ms=settings.kafka_session_timeout_ms,
                heartbeat_interval_ms=settings.kafka_heartbeat_interval_ms,
                rebalance_timeout_ms=settings.kafka_rebalance_timeout_ms,
                fetch_max_wait_ms=settings.kafka_fetch_max_wait_ms,
            ),
            FloodBreaker(
                settings.dead_letter_breaker_consecutive,
                settings.dead_letter_breaker_ratio,
                settings.dead_letter_breaker_window,
            ),
            _now,
            self._after_commit,
        )

    def _make_relay(self) -> Relay:
        settings = self._settings
        return Relay(
            settings.database_url,
            kafka.producer_options(settings),
            RelayOptions(
                prefix=settings.kafka_topic_prefix,
                group_id=settings.kafka_group_id,
                version=service_version(),
                poll_seconds=settings.relay_poll_interval.total_seconds(),
                batch_size=settings.relay_batch_size,
            ),
            _now,
        )

    async def _serve(self) -> None:
        """Serve health and metrics; FastStream's application carries the routes."""
        settings = self._settings
        if self._pool is None:
            raise AssertionError("the pool is opened before the port")
        health = Health(self._pool, self.consumer)
        app = AsgiFastStream(
            self._broker,
            asgi_routes=[("/livez", health.livez), ("/readyz", health.readyz), ("/metrics", make_asgi_app())],
            # Given here, not through `as_asgi()`, which drops the title.
            specification=AsyncAPI(title="Inventory worker", version=service_version()),
            logger=None,
        )
        config = uvicorn.Config(
            app, host=settings.http_host, port=settings.http_port, lifespan="off", log_config=None, access_log=False
        )
        self._server = _Server(config)
        opened = _open_port(settings)
        self.port = opened.getsockname()[1]
        self._server_task = asyncio.create_task(self._server.serve(sockets=[opened]), name="http")
        while not self._server.started:  # noqa: ASYNC110 - uvicorn offers nothing to wait for
            await asyncio.sleep(0.01)

    def _spawn(self, name: str, work: Awaitable[None]) -> None:
        async def guarded() -> None:
            with crash_on_bug(f"A bug stopped the {name} and with it this worker"):
                await work

        self._tasks.append(asyncio.create_task(guarded(), name=name))


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the worker's decide when everything stops."""

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _open_port(settings: Settings) -> socket.socket:
    """Listen for health and metrics; uvicorn would leave the process where the port is taken."""
    family = socket.AF_INET6 if ":" in settings.http_host else socket.AF_INET
    try:
        return socket.create_server((settings.http_host, settings.http_port), family=family)
    except OSError as error:
        raise OperatorError(
            f"port {settings.http_port} on {settings.http_host} cannot be opened: {error.strerror or error}; "
            "set INVENTORY_HTTP_PORT to a free one (0 picks one)"
        ) from error


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel until all have ended: a client library may swallow a cancellation that meets it at the wrong moment."""
    pending = set(tasks)
    for _ in range(CANCEL_ATTEMPTS):
        for task in pending:
            task.cancel()
        if pending:
            _, pending = await asyncio.wait(pending, timeout=CANCEL_SECONDS)
    if pending:
        logger.warning("Parts that would not stop: %s", ", ".join(sorted(task.get_name() for task in pending)))


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` at the first SIGTERM or SIGINT; leave the process at the second."""
    loop = asyncio.get_running_loop()

    def handle() -> None:
        if stop.is_set():
            logger.warning("Stopped at once, by a second signal; what was not committed will be delivered again")
            logging.shutdown()
            os._exit(EXIT_STOPPED_AT_ONCE)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _open_pool(settings: Settings) -> Pool:
    try:
        return await open_pool(settings.database_url, settings.database_pool_size)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise unreachable(settings, error) from error


async def _check_database(settings: Settings) -> None:
    """Raise OperatorError unless the database answers and has the tables of this version."""
    async with connection(settings) as opened:
        await require_migrated(opened)


async def _check_topics(settings: Settings) -> None:
    """Raise OperatorError unless Kafka answers and has every topic that is read."""
    missing = sorted(TOPICS_IN)
    async with kafka.admin_client(settings) as admin:
        # Topics that were made a moment ago are not known to every broker at once.
        for _ in range(TOPIC_LOOKS):
            there = set(await admin.list_topics())
            missing = sorted(topic for topic in TOPICS_IN if settings.kafka_topic_prefix + topic not in there)
            if not missing:
                return
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
    raise OperatorError(f"Kafka lacks {', '.join(missing)}: run `inventory topics create` first")


def _maintenance_options(settings: Settings) -> MaintenanceOptions:
    return MaintenanceOptions(
        settings.inbox_retention,
        settings.outbox_retention,
        settings.retention_interval.total_seconds(),
        settings.audit_interval.total_seconds(),
    )


def _tune_garbage_collection() -> None:
    """Look for cycles rarely: a batch makes tens of thousands of objects and none of them refers back.

    At Python's default (every 700 allocations) the collector took from a tenth to a third of the worker's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def _now() -> datetime:
    return datetime.now(UTC)
