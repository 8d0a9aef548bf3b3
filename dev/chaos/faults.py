"""The faults: what a chaos run does to the workers and to the servers under them."""

import asyncio
import random
import signal

from dev.chaos.cluster import CART_TTL_SECONDS, ORDER_TTL_SECONDS, Deployment
from dev.chaos.generator import Generator
from dev.chaos.supervisor import Supervisor

FREEZE_SECONDS = (7.0, 10.0)
OUTAGE_SECONDS = max(ORDER_TTL_SECONDS, CART_TTL_SECONDS) + 4.0
WORKERS = 3


class WorkerFaults:
    """Faults of the worker processes."""

    def __init__(self, seed: int, supervisor: Supervisor) -> None:
        self._random = random.Random(f"{seed}-of-workers")
        self._supervisor = supervisor

    async def kill_worker(self) -> None:
        """Kill a worker with SIGKILL; its supervisor restarts it."""
        running = self._supervisor.running
        if running:
            self._random.choice(running).send(signal.SIGKILL)

    async def freeze_worker(self) -> None:
        """Stop a worker for longer than its session timeout, then let it continue as a zombie member."""
        running = self._supervisor.running
        if running:
            worker = self._random.choice(running)
            worker.send(signal.SIGSTOP)
            await asyncio.sleep(self._random.uniform(*FREEZE_SECONDS))
            worker.send(signal.SIGCONT)

    async def stop_worker(self) -> None:
        """Stop a worker with SIGTERM, as a deployment does; its supervisor restarts it."""
        running = self._supervisor.running
        if running:
            self._random.choice(running).send(signal.SIGTERM)

    async def rebalance_storm(self) -> None:
        """Let workers join and leave faster than the group can settle."""
        for _ in range(self._random.randint(2, 3)):
            self._supervisor.start_worker()
            await asyncio.sleep(self._random.uniform(0.5, 2.0))
            running = self._supervisor.running
            if len(running) > 1:
                await self._supervisor.stop_worker(self._random.choice(running))
        while len(self._supervisor.workers) > WORKERS:
            await self._supervisor.stop_worker(self._supervisor.workers[0])

    async def outage(self) -> None:
        """Kill all workers for longer than holds last, while payments for those holds still reach Kafka."""
        workers = list(self._supervisor.workers)
        for worker in workers:
            worker.kill()
        await asyncio.sleep(OUTAGE_SECONDS)
        for worker in workers:
            worker.start()


class ServerFaults:
    """Faults of Kafka, PostgreSQL, Redis and of what producers send."""

    def __init__(self, seed: int, deployment: Deployment, generator: Generator) -> None:
        self._random = random.Random(f"{seed}-of-servers")
        self._deployment = deployment
        self._generator = generator

    async def restart_postgres(self) -> None:
        """Crash PostgreSQL and start it again."""
        server = self._deployment.servers.postgres
        await asyncio.to_thread(server.stop, "immediate")
        await asyncio.sleep(self._random.uniform(0.0, 2.0))
        await asyncio.to_thread(server.start)

    async def cut_commits(self) -> None:
        """Reset the connections of the next commits, before PostgreSQL receives them or after it obeyed."""
        proxy = self._deployment.proxy
        proxy.cut_commits(self._random.choice(("before", "after")), self._random.randint(1, 6))
        await asyncio.sleep(1.0)
        proxy.cut_no_more_commits()

    async def cut_connections(self) -> None:
        """Reset every connection to PostgreSQL."""
        self._deployment.proxy.cut_all()

    async def restart_kafka(self) -> None:
        """Shut the broker down in order and start it again."""
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
        await asyncio.sleep(self._random.uniform(0.5, 2.0))
        await asyncio.to_thread(server.start)

    async def poison_burst(self) -> None:
        """Publish many invalid records in a row."""
        self._generator.burst(self._random.randint(50, 150))
        await asyncio.sleep(0.1)
