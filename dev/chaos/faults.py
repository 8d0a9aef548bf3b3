"""The faults: what is done to the workers and to the servers under them, in an order that the seed decides.

Two lanes run side by side, one for the workers and one for the servers, so that faults meet. Each lane waits until a
fault is made good before it goes on, and measures how long that took: from the end of the fault until no record was
left behind any more (`ProgressMonitor.until_keeping_up`).
"""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from dev.chaos.cluster import CART_TTL_SECONDS, ORDER_TTL_SECONDS, Deployment
from dev.chaos.generator import Generator
from dev.chaos.progress import ProgressMonitor
from dev.chaos.supervisor import Supervisor

RECOVERY_LIMIT_SECONDS = 120.0
FREEZE_SECONDS = (7.0, 10.0)
OUTAGE_SECONDS = max(ORDER_TTL_SECONDS, CART_TTL_SECONDS) + 4.0
WORKERS = 3
POLL_SECONDS = 0.05

Fault = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class FaultRecord:
    """A fault that was made. `recovery` in seconds, None when it took too long; `alone`: no other fault met it."""

    kind: str
    started: float
    ended: float = 0.0
    recovery: float | None = None
    alone: bool = True


class Nemesis:
    """Makes faults until told to stop; `done` are those made."""

    def __init__(
        self, seed: int, deployment: Deployment, supervisor: Supervisor, generator: Generator, monitor: ProgressMonitor
    ) -> None:
        self._seed = seed
        self._deployment = deployment
        self._supervisor = supervisor
        self._generator = generator
        self._monitor = monitor
        # One for each lane: how the lanes' faults interleave depends on the machine, what they are must not.
        self._of_workers = random.Random(f"{seed}-of-workers")
        self._of_servers = random.Random(f"{seed}-of-servers")
        self._active: list[FaultRecord] = []
        self._outage = False
        self.done: list[FaultRecord] = []
        self.on_done: Callable[[FaultRecord], None] = lambda _: None

    async def run(self, until: float, names: Collection[str] = ()) -> None:
        """Make faults until `until` (monotonic), both lanes; returns when all are over and made good.

        With `names`, only faults of those names.
        """
        workers: dict[Fault, int] = {
            self.kill_worker: 40,
            self.freeze_worker: 12,
            self.stop_worker: 20,
            self.rebalance_storm: 14,
            self.outage: 3,
        }
        servers: dict[Fault, int] = {
            self.restart_postgres: 18,
            self.cut_commits: 30,
            self.cut_connections: 14,
            self.stop_redis: 10,
            self.poison_burst: 14,
        }
        if self._deployment.servers.broker is not None:
            servers |= {self.restart_kafka: 5, self.kill_kafka: 6}
        lanes = {"workers": workers, "servers": servers}
        wanted = {
            lane: {fault: weight for fault, weight in faults.items() if not names or fault.__name__ in names}
            for lane, faults in lanes.items()
        }
        await asyncio.gather(*(self._lane(lane, faults, until) for lane, faults in wanted.items() if faults))

    async def _lane(self, name: str, faults: dict[Fault, int], until: float) -> None:
        draw = random.Random(f"{self._seed}-{name}")
        # Each fault once, in a drawn order, before any comes twice: short runs see them all.
        first = list(faults)
        draw.shuffle(first)
        while time.monotonic() < until:
            fault = first.pop() if first else draw.choices(list(faults), weights=list(faults.values()))[0]
            if fault == self.outage and time.monotonic() + OUTAGE_SECONDS > until:
                continue
            await self.make(fault)
            await asyncio.sleep(draw.uniform(0.1, 0.6))

    async def make(self, fault: Fault) -> FaultRecord:
        """Make one fault and wait until it is made good."""
        while self._outage:
            await asyncio.sleep(POLL_SECONDS)
        done = FaultRecord(fault.__name__, time.monotonic(), alone=not self._active)
        for other in self._active:
            other.alone = False
        self._active.append(done)
        try:
            await fault()
            done.ended = time.monotonic()
            done.recovery = await self._monitor.until_keeping_up(
                self._generator.acknowledged_ends, RECOVERY_LIMIT_SECONDS
            )
        finally:
            self._active.remove(done)
        self.done.append(done)
        self.on_done(done)
        return done

    # --- workers ----------------------------------------------------------------------------------

    async def kill_worker(self) -> None:
        """End a worker as the kernel would; its supervisor starts it again."""
        running = self._supervisor.running
        if running:
            self._of_workers.choice(running).send(signal.SIGKILL)

    async def freeze_worker(self) -> None:
        """Stop a worker for longer than the session timeout: it comes back as a zombie."""
        running = self._supervisor.running
        if running:
            worker = self._of_workers.choice(running)
            worker.send(signal.SIGSTOP)
            await asyncio.sleep(self._of_workers.uniform(*FREEZE_SECONDS))
            worker.send(signal.SIGCONT)

    async def stop_worker(self) -> None:
        """Ask a worker to stop, as a deployment does; its supervisor starts it again."""
        running = self._supervisor.running
        if running:
            self._of_workers.choice(running).send(signal.SIGTERM)

    async def rebalance_storm(self) -> None:
        """Let workers join and leave faster than the group can settle."""
        for _ in range(self._of_workers.randint(2, 3)):
            self._supervisor.start_worker()
            await asyncio.sleep(self._of_workers.uniform(0.5, 2.0))
            running = self._supervisor.running
            if len(running) > 1:
                await self._supervisor.stop_worker(self._of_workers.choice(running))
        while len(self._supervisor.workers) > WORKERS:
            await self._supervisor.stop_worker(self._supervisor.workers[0])

    async def outage(self) -> None:
        """Kill all workers for longer than holds last, while payments for those holds go on arriving in Kafka."""
        self._outage = True
        try:
            # The other lane's fault is made good first, and begins no other: it could not be while nobody works.
            while len(self._active) > 1:
                await asyncio.sleep(POLL_SECONDS)
            workers = list(self._supervisor.workers)
            for worker in workers:
                worker.kill()
            await asyncio.sleep(OUTAGE_SECONDS)
            for worker in workers:
                worker.start()
        finally:
            self._outage = False

    # --- servers ----------------------------------------------------------------------------------

    async def restart_postgres(self) -> None:
        """Crash PostgreSQL and start it again."""
        server = self._deployment.servers.postgres
        await asyncio.to_thread(server.stop, "immediate")
        await asyncio.sleep(self._of_servers.uniform(0.0, 2.0))
        await asyncio.to_thread(server.start)

    async def cut_commits(self) -> None:
        """Cut the connections of the next commits, before or after PostgreSQL obeyed them."""
        proxy = self._deployment.proxy
        proxy.cut_commits(self._of_servers.choice(("before", "after")), self._of_servers.randint(1, 6))
        await asyncio.sleep(1.0)
        proxy.cut_no_more_commits()

    async def cut_connections(self) -> None:
        """Cut every connection to PostgreSQL."""
        self._deployment.proxy.cut_all()

    async def restart_kafka(self) -> None:
        """Stop the broker in order and start it again."""
        broker = self._deployment.servers.broker
        if broker is not None:
            await asyncio.to_thread(broker.stop)
            await asyncio.to_thread(broker.start)

    async def kill_kafka(self) -> None:
        """Crash the broker and start it again."""
        broker = self._deployment.servers.broker
        if broker is not None:
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)

    async def stop_redis(self) -> None:
        """Stop Redis and start it again, empty."""
        server = self._deployment.servers.redis
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(self._of_servers.uniform(0.5, 2.0))
        await asyncio.to_thread(server.start)

    async def poison_burst(self) -> None:
        """Publish bad records in a row."""
        self._generator.burst(self._of_servers.randint(50, 150))
        await asyncio.sleep(0.1)
