"""Injects faults in an order that follows from the seed, and measures the recovery from each.

Two lanes run side by side, one for the workers and one for the servers, so that faults overlap. Each lane waits for
recovery before its next fault. Recovery lasts from the end of the fault until the workers keep up again
(`ProgressMonitor.until_keeping_up`).
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from dev.chaos.cluster import Deployment
from dev.chaos.faults import OUTAGE_SECONDS, ServerFaults, WorkerFaults
from dev.chaos.generator import Generator
from dev.chaos.progress import ProgressMonitor
from dev.chaos.supervisor import Supervisor

RECOVERY_LIMIT_SECONDS = 120.0
POLL_SECONDS = 0.05

Fault = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class FaultRecord:
    """An injected fault. `recovery` in seconds, None if it took too long; `alone`: no other fault overlapped it."""

    kind: str
    started: float
    ended: float = 0.0
    recovery: float | None = None
    alone: bool = True


class Nemesis:
    """Injects faults for a given time; `done` lists them."""

    def __init__(
        self,
        seed: int,
        deployment: Deployment,
        supervisor: Supervisor,
        generator: Generator,
        monitor: ProgressMonitor,
    ) -> None:
        self._seed = seed
        self._deployment = deployment
        self._generator = generator
        self._monitor = monitor
        # Each has its own random numbers: how the lanes interleave depends on the machine, what they do must not.
        self._of_workers = WorkerFaults(seed, supervisor)
        self._of_servers = ServerFaults(seed, deployment, generator)
        self._active: list[FaultRecord] = []
        self._outage = False
        self.done: list[FaultRecord] = []
        self.on_done: Callable[[FaultRecord], None] = lambda _: None

    async def run(self, until: float, names: Collection[str] = (), kinds_at_least: int = 0) -> None:
        """Inject faults in both lanes until `until` (monotonic); returns after the last recovery.

        With `names`, only faults of those names. On a slow machine it goes on until that many kinds were injected.
        """
        workers: dict[Fault, int] = {
            self._of_workers.kill_worker: 40,
            self._of_workers.freeze_worker: 12,
            self._of_workers.stop_worker: 20,
            self._of_workers.rebalance_storm: 14,
            self._of_workers.outage: 3,
        }
        servers: dict[Fault, int] = {
            self._of_servers.restart_postgres: 18,
            self._of_servers.cut_commits: 30,
            self._of_servers.cut_connections: 14,
            self._of_servers.stop_redis: 10,
            self._of_servers.poison_burst: 14,
        }
        if self._deployment.servers.broker is not None:
            servers |= {self._of_servers.restart_kafka: 5, self._of_servers.kill_kafka: 6}
        lanes = {"workers": workers, "servers": servers}
        wanted = {
            lane: {fault: weight for fault, weight in faults.items() if not names or _name(fault) in names}
            for lane, faults in lanes.items()
        }
        await asyncio.gather(
            *(self._lane(lane, faults, until, kinds_at_least) for lane, faults in wanted.items() if faults)
        )

    async def _lane(self, name: str, faults: dict[Fault, int], until: float, kinds_at_least: int) -> None:
        draw = random.Random(f"{self._seed}-{name}")
        # Each fault once, in random order, before any is repeated: short runs see them all.
        first = list(faults)
        draw.shuffle(first)
        while time.monotonic() < until or len({record.kind for record in self.done}) < kinds_at_least:
            fault = first.pop() if first else draw.choices(list(faults), weights=list(faults.values()))[0]
            if fault == self._of_workers.outage and time.monotonic() + OUTAGE_SECONDS > until:
                continue
            await self._inject(fault)
            await asyncio.sleep(draw.uniform(0.1, 0.6))

    async def _inject(self, fault: Fault) -> None:
        """Inject one fault and wait for the recovery."""
        while self._outage:
            await asyncio.sleep(POLL_SECONDS)
        record = FaultRecord(_name(fault), time.monotonic(), alone=not self._active)
        for other in self._active:
            other.alone = False
        self._active.append(record)
        try:
            if fault == self._of_workers.outage:
                await self._without_other_faults(fault)
            else:
                await fault()
            record.ended = time.monotonic()
            record.recovery = await self._monitor.until_keeping_up(
                self._generator.acknowledged_ends, RECOVERY_LIMIT_SECONDS
            )
        finally:
            self._active.remove(record)
        self.done.append(record)
        self.on_done(record)

    async def _without_other_faults(self, fault: Fault) -> None:
        """Inject a fault during which nothing could recover: the other lane finishes first and then waits."""
        self._outage = True
        try:
            while len(self._active) > 1:
                await asyncio.sleep(POLL_SECONDS)
            await fault()
        finally:
            self._outage = False


def _name(fault: Fault) -> str:
    return str(getattr(fault, "__name__", fault))
