"""The worker processes of a run: started, watched and started again, as a supervisor would."""

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
# A worker that found no server at its start has the next try later, or three of them would take the processors from it.
UNREACHABLE_RESTART_SECONDS = 3.0
WATCH_SECONDS = 0.1
STOP_SECONDS = 20.0
# What `inventory run` ends with where a server cannot be reached at the start.
EXIT_UNREACHABLE = 2
# A worker that was asked to stop and did not.
STUCK = -9


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a process that nobody asked for."""

    worker: str
    status: int
    at: float
    log: str


class Worker:
    """One process at a time under one name; `wanted` says whether the supervisor keeps it alive."""

    def __init__(self, deployment: Deployment, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.log = deployment.directory / f"{deployment.name}-{name}.log"
        self._environment = deployment.environment
        self._command = command
        self._process: ServerProcess | None = None
        self.wanted = False
        self.doomed = False
        self.restart_at = 0.0

    @property
    def running(self) -> bool:
        """Whether the process is there (it may be stopped by SIGSTOP)."""
        return self._process is not None and self._process.running

    @property
    def status(self) -> int | None:
        """The exit status of the process that ended; None while it runs or when none was started."""
        return None if self._process is None else self._process.status

    def start(self) -> None:
        """Start the process; returns at once."""
        self.wanted, self.doomed = True, False
        self._process = ServerProcess(
            self.name,
            self._command,
            log=self.log,
            environment=self._environment,
            leash_signal=signal.SIGKILL,
        )

    def send(self, signal_number: signal.Signals) -> None:
        """Signal the process if it is there; what ends it is no surprise to the supervisor."""
        if self._process is not None and self._process.running:
            self.doomed = self.doomed or signal_number in {signal.SIGKILL, signal.SIGTERM}
            os.kill(self._process.pid, signal_number)

    def reap(self) -> None:
        """Forget the process that ended."""
        if self._process is not None and not self._process.running:
            self._process.reap()
            self._process = None

    def kill(self) -> None:
        """End the process at once and for good."""
        self.wanted, self.doomed = False, True
        if self._process is not None:
            self._process.kill()
            self._process = None


class Supervisor:
    """All workers; `watch()` restarts those that are wanted and takes down the ends nobody asked for."""

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
        """Start one more worker."""
        self._count += 1
        worker = Worker(self._deployment, f"worker-{self._count}", [*self._command, *options])
        self.workers.append(worker)
        worker.start()
        return worker

    @property
    def running(self) -> list[Worker]:
        """The workers that are there and wanted."""
        return [worker for worker in self.workers if worker.wanted and worker.running]

    def open(self) -> None:
        """Begin to watch."""
        self._watcher = asyncio.create_task(self._watch(), name="supervisor")

    async def close(self) -> None:
        """Stop watching and end what still runs, at once."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        for worker in self.workers:
            worker.kill()

    async def stop_worker(self, worker: Worker) -> int | None:
        """Ask a worker to stop for good and return its status; STUCK for one that had to be killed, None for none."""
        worker.wanted = False
        was_running = worker.running and not worker.doomed
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
        """Ask all to stop for good; returns their statuses."""
        return list(await asyncio.gather(*(self.stop_worker(worker) for worker in list(self.workers))))

    async def _until_ended(self, worker: Worker) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while worker.running and time.monotonic() < deadline:
            await asyncio.sleep(WATCH_SECONDS / 2)

    async def _watch(self) -> None:
        while True:
            for worker in self.workers:
                if worker.status is not None:
                    self._take_down(worker)
                if worker.wanted and not worker.running and time.monotonic() > worker.restart_at:
                    worker.start()
            await asyncio.sleep(WATCH_SECONDS)

    def _take_down(self, worker: Worker) -> None:
        status = worker.status
        if status is None or not worker.wanted:
            return
        pause = UNREACHABLE_RESTART_SECONDS if status == EXIT_UNREACHABLE else RESTART_SECONDS
        worker.restart_at = time.monotonic() + pause
        if not worker.doomed and status != EXIT_UNREACHABLE:
            tail = worker.log.read_bytes()[-4000:].decode("utf-8", "replace")
            self.exits.append(Exit(worker.name, status, time.time(), tail))
        worker.reap()
