"""`inventory run`: starts the parts of a worker and stops them in order.

A stop finishes the current batch, commits its offsets, leaves the group, publishes what is in the outbox, and only then
closes the connections.
"""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from engine import metrics
from engine.crash import crash_on_bug
from engine.reading import close_quietly
from engine.tasks import BatchResult
from inventory import telemetry, wiring
from inventory.health import Health, find_none, probe_database
from inventory.http_port import HttpPort
from inventory.policy import policy_of
from inventory.preflight import check_database, check_topics
from inventory.settings import Settings
from inventory.signals import stop_on_signals
from inventory.wiring import Role, service_version, utc_now
from storage.cache import Cache
from storage.stream import unaccepted_gap
from workers.cache import CacheRefresher

if TYPE_CHECKING:
    from storage.database import Pool
    from workers.consuming.consumer import Consumer
    from workers.consuming.subscription import Broker
    from workers.publishing.relay import Relay

logger = logging.getLogger(__name__)

ROLES: Final = tuple(Role)
FLUSH_SECONDS: Final = 5.0
CANCEL_ATTEMPTS: Final = 5
CANCEL_SECONDS: Final = 1.0


async def run(settings: Settings, roles: Collection[Role] = ROLES) -> None:
    """Run a worker until SIGTERM or SIGINT; a second signal stops at once.

    Raises OperatorError where PostgreSQL or Kafka cannot be used at the start.
    """
    stop = asyncio.Event()
    telemetry.configure_traces(service_version())
    _tune_garbage_collection()
    with stop_on_signals(stop):
        async with worker(settings, roles):
            await stop.wait()
            logger.info("Stopping after the current batch")


@asynccontextmanager
async def worker(settings: Settings, roles: Collection[Role] = ROLES) -> AsyncIterator["Worker"]:
    """Run a worker inside the block; on leaving it, stop it in order."""
    await check_database(settings)
    if Role.CONSUMER in roles:
        await check_topics(settings)
    running = Worker(settings, roles)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(running.stop)
        await running.start()
        logger.info("Ready: %s on port %d", ", ".join(roles), running.port)
        yield running


class Worker:
    """The parts of one process; starts and stops them."""

    def __init__(self, settings: Settings, roles: Collection[Role]) -> None:
        self._settings = settings
        self._roles = roles
        self._tasks: list[asyncio.Task[None]] = []
        self._pool: Pool | None = None
        self._broker: Broker | None = None
        self._http = HttpPort(settings.http_host, settings.http_port)
        self._listeners: list[Callable[[BatchResult], None]] = []
        self.consumer: Consumer | None = None
        self.relay: Relay | None = None
        self._cache: Cache | None = None
        self._health: Health | None = None

    @property
    def port(self) -> int:
        """The port of the health pages and the metrics."""
        return self._http.port

    async def start(self) -> None:
        """Start everything, the consumer last."""
        settings = self._settings
        policy = policy_of(settings)
        self._pool = pool = await wiring.make_pool(settings)
        if Role.RELAY in self._roles:
            self.relay = wiring.make_relay(settings)
            self._listeners.append(self._wake_relay)
            self._spawn("relay", self.relay.run())
            self._spawn("levels", wiring.make_level_publisher(settings).run())
        if Role.SWEEPER in self._roles:
            self._spawn("sweeper", wiring.make_sweeper(settings, pool, policy, self._after_commit).run())
            self._spawn("maintenance", wiring.make_maintenance(settings, pool).run())
        if settings.redis_url is not None:
            self._cache = Cache(settings.redis_url)
            refresher = CacheRefresher(self._cache, utc_now)
            self._listeners.append(refresher.after_commit)
            self._spawn("cache", refresher.run())
        if Role.CONSUMER in self._roles:
            self.consumer = wiring.make_consumer(settings, pool, policy, self._after_commit)
        self._broker = broker = wiring.make_broker(settings)
        find_problem = find_none if self.consumer is None else unaccepted_gap
        self._health = health = Health(probe_database(settings.database_url, find_problem), self.consumer)
        await self._http.open(broker, health, service_version())
        if self.consumer is not None:
            self.consumer.subscribe(broker)
            await broker.start()
            self._spawn("consumer's clock", self.consumer.run_ticks())

    async def stop(self) -> None:
        """Stop in order: the consumer, then the relay once the outbox is empty, then the connections."""
        if self.consumer is not None and self._broker is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.shutdown_timeout.total_seconds()):
                    await self.consumer.drain()
            await self._broker.stop()
        if self.relay is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self.relay.flush()
        await _end(self._tasks)
        await self._http.close()
        if self._health is not None:
            await self._health.close()
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

    def _spawn(self, name: str, work: Awaitable[None]) -> None:
        async def guarded() -> None:
            with crash_on_bug(f"A bug stopped the {name} and with it this worker"):
                await work

        self._tasks.append(asyncio.create_task(guarded(), name=name))


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel until all have ended: a client library may swallow a cancellation that comes at the wrong moment."""
    pending = set(tasks)
    for _ in range(CANCEL_ATTEMPTS):
        for task in pending:
            task.cancel()
        if pending:
            _, pending = await asyncio.wait(pending, timeout=CANCEL_SECONDS)
    if pending:
        logger.warning("Did not stop in time: %s", ", ".join(sorted(task.get_name() for task in pending)))


def _tune_garbage_collection() -> None:
    """Collect cycles rarely: a batch makes tens of thousands of objects and no cycles.

    At Python's default (every 700 allocations) the collector took a tenth to a third of the worker's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
