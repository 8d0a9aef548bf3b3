"""Starts the worker processes of a run and restarts those that end, as a process supervisor does."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dev.chaos.cluster import Deployment
from dev.servers.process import ServerProcess

RESTART_SECONDS = 0.5
# A worker that could not reach a server waits longer: three starting interpreters would slow that server's recovery.
UNREACHABLE_RESTART_SECONDS = 3.0
WATCH_SECONDS = 0.1
STOP_SECONDS = 20.0
# `inventory run` exits with this when a server is unreachable at startup.
EXIT_UNREACHABLE = 2
# Reported for a worker that ignored SIGTERM and was killed.
STUCK = -9


@dataclass(frozen=True, slots=True)
class Exit:
    """An unexpected end of a process."""

    worker: str
    status: int
    at: float
    log: str


class Worker:
    """One process at a time under one name. `wanted`: restart it when it ends; `end_expected`: we caused its end."""

    def __init__(self, deployment: Deployment, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.log = deployment.directory / f"{deployment.name}-{name}.log"
        self._environment = deployment.environment
        self._command = command
        self._process: ServerProcess | None = None
        self.wanted = False
        self.end_expected = False
        self.restart_at = 0.0

    @property
    def running(self) -> bool:
        """Whether the process exists; SIGSTOP may hold it."""
        return self._process is not None and self._process.running

    @property
    def status(self) -> int | None:
        """The exit status of a process that ended; None while it runs or before the first start."""
        return None if self._process is None else self._process.status

    def start(self) -> None:
        """Start the process; returns at once."""
        self.wanted, self.end_expected = True, False
        self._process = ServerProcess(
            self.name,
            self._command,
            log=self.log,
            environment=self._environment,
            leash_signal=signal.SIGKILL,
        )

    def send(self, signal_number: signal.Signals) -> None:
        """Signal the process if it exists; an end by SIGKILL or SIGTERM is then expected."""
        if self._process is not None and self._process.running:
            self.end_expected = self.end_expected or signal_number in {signal.SIGKILL, signal.SIGTERM}
            os.kill(self._process.pid, signal_number)

    def reap(self) -> None:
        """Collect the process if it has ended."""
        if self._process is not None and not self._process.running:
            self._process.reap()
            self._process = None

    def kill(self) -> None:
        """Kill the process and do not restart it."""
        self.wanted, self.end_expected = False, True
        if self._process is not None:
            self._process.kill()
            self._process = None


class Supervisor:
    """Restarts workers while it is open, and records unexpected exits in `exits`."""

    def __init__(
        self, deployment: Deployment, command: Sequence[str] = (sys.executable, "-m", "inventory", "run")
    ) -> None:
        self._deployment = deployment
        self._command = command
        self._count = 0
        self._watcher: asyncio.Task[None] | None = None
        self.workers: list[Worker] = []
        self.exits: list[Exit] = []

    def start_worker(self, *options: str) -> Worker:
        """Add a worker and start it."""
        self._count += 1
        worker = Worker(self._deployment, f"worker-{self._count}", [*self._command, *options])
        self.workers.append(worker)
        worker.start()
        return worker

    @property
    def running(self) -> list[Worker]:
        """The workers that run and shall go on running."""
        return [worker for worker in self.workers if worker.wanted and worker.running]

    def open(self) -> None:
        """Begin to restart workers that end."""
        self._watcher = asyncio.create_task(self._watch(), name="supervisor")

    async def close(self) -> None:
        """Stop restarting and kill what still runs."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        for worker in self.workers:
            worker.kill()

    async def stop_worker(self, worker: Worker) -> int | None:
        """Stop a worker with SIGTERM and forget it.

        Returns its exit status, STUCK if it had to be killed, None if it was not running or already being ended.
        """
        worker.wanted = False
        was_running = worker.running and not worker.end_expected
        worker.send(signal.SIGTERM)
        worker.send(signal.SIGCONT)
        await self._until_ended(worker)
        status = worker.status if was_running else None
        if worker.running:
            status = STUCK
            worker.kill()
        worker.reap()
        self.workers.remove(worker)
        return status

    async def stop_all(self) -> list[int | None]:
        """Stop all workers; returns their statuses as `stop_worker` does."""
        return list(await asyncio.gather(*(self.stop_worker(worker) for worker in list(self.workers))))

    async def _until_ended(self, worker: Worker) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while worker.running and time.monotonic() < deadline:
            await asyncio.sleep(WATCH_SECONDS / 2)

    async def _watch(self) -> None:
        while True:
            for worker in self.workers:
                if worker.status is not None:
                    self._handle_exit(worker)
                if worker.wanted and not worker.running and time.monotonic() > worker.restart_at:
                    worker.start()
            await asyncio.sleep(WATCH_SECONDS)

    def _handle_exit(self, worker: Worker) -> None:
        status = worker.status
        if status is None or not worker.wanted:
            return
        pause = UNREACHABLE_RESTART_SECONDS if status == EXIT_UNREACHABLE else RESTART_SECONDS
        worker.restart_at = time.monotonic() + pause
        if not worker.end_expected and status != EXIT_UNREACHABLE:
            tail = worker.log.read_bytes()[-4000:].decode("utf-8", "replace")
            self.exits.append(Exit(worker.name, status, time.time(), tail))
        worker.reap()
