"""One chaos run: publish, inject faults, wait for recovery, stop the workers, check the evidence."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from dev.chaos.checker import judge
from dev.chaos.cluster import CART_TTL_SECONDS, ORDER_TTL_SECONDS, ROOT, Deployment, Servers, open_deployment
from dev.chaos.evidence import Evidence, read_tables, read_topics
from dev.chaos.faults import WORKERS
from dev.chaos.findings import Finding
from dev.chaos.generator import Generator
from dev.chaos.nemesis import FaultRecord, Nemesis
from dev.chaos.progress import ProgressMonitor
from dev.chaos.supervisor import Supervisor
from dev.chaos.workload import Workload
from dev.oracle.observations import Violation
from dev.oracle.settings import Settings

RULES = Settings(cart_ttl=timedelta(seconds=CART_TTL_SECONDS), order_ttl=timedelta(seconds=ORDER_TTL_SECONDS))
READY_SECONDS = 120.0
# Traffic goes on for this long after the last fault, so that its recovery is part of the run.
CALM_SECONDS = 3.0
# Orderly, by SIGTERM before the handlers were installed, or not running at all.
ALLOWED_STOP_STATUSES = (0, -signal.SIGTERM, None)

Say = Callable[[str], None]


class Timing(NamedTuple):
    """Limits for the end of a run: until everything is applied, then until everything is published."""

    drain_seconds: float = 120.0
    publish_seconds: float = 60.0


DEFAULT_TIMING = Timing()


@dataclass(frozen=True, slots=True)
class Options:
    """A run: `seconds` of `faults` (by name; empty means all) at `rate` events a second.

    It lasts longer where the machine is too slow for `kinds_at_least` kinds of fault in that time.
    """

    seed: int
    seconds: float
    rate: float
    directory: Path
    faults: frozenset[str] = frozenset()
    kinds_at_least: int = 0


@dataclass(slots=True)
class Result:
    """What a run found, under which faults, and the evidence for it."""

    options: Options
    finding: Finding
    faults: Sequence[FaultRecord]
    evidence: Evidence

    @property
    def violations(self) -> Sequence[Violation]:
        """Every violation found."""
        return self.finding.violations

    def line(self) -> str:
        """Return the run on one line, in the manner of Jepsen's reports."""
        recoveries = sorted(done.recovery for done in self.faults if done.recovery is not None)
        p50, p99 = (_percentile(recoveries, share) for share in (0.50, 0.99))
        return (
            f"seed={self.options.seed} commit={commit()} {self.finding.line} faults={len(self.faults)} "
            f"recovery_p50={p50:.2f}s recovery_p99={p99:.2f}s"
        )


async def run(servers: Servers, options: Options, say: Say) -> Result:
    """Run once. The deployment's topics and database stay for inspection until the servers are closed."""
    async with open_deployment(
        servers, f"chaos_{options.seed}_{int(time.time()) % 100_000}", options.directory
    ) as deployment:
        supervisor, monitor = Supervisor(deployment), ProgressMonitor(deployment)
        generator = Generator(
            servers.kafka.bootstrap_servers, deployment.prefix, Workload(options.seed, options.rate, ORDER_TTL_SECONDS)
        )
        try:
            nemesis = Nemesis(options.seed, deployment, supervisor, generator, monitor)
            nemesis.on_done = lambda done: say(_describe(done))
            violations = await _publish_under_faults(options, supervisor, monitor, generator, nemesis)
            violations += await wind_down(supervisor, monitor, generator, say)
        finally:
            await supervisor.close()
            await monitor.close()
        return await check(deployment, options, generator, violations, nemesis.done, say)


async def _publish_under_faults(
    options: Options, supervisor: Supervisor, monitor: ProgressMonitor, generator: Generator, nemesis: Nemesis
) -> list[Violation]:
    """Publish and inject faults; returns the faults that the workers did not recover from."""
    supervisor.open()
    for _ in range(WORKERS):
        supervisor.start_worker()
    faults_over = asyncio.Event()
    publishing = asyncio.create_task(generator.run(faults_over), name="generator")
    while not generator.acknowledged_ends():
        await asyncio.sleep(0.1)
    if await monitor.until_applied(generator.acknowledged_ends(), READY_SECONDS) is None:
        publishing.cancel()
        return [Violation("not_recovered", "start", "the workers applied nothing although no fault was injected yet")]
    await nemesis.run(time.monotonic() + options.seconds, options.faults, options.kinds_at_least)
    await asyncio.sleep(CALM_SECONDS)
    faults_over.set()
    await publishing
    return [
        Violation("not_recovered", done.kind, f"fault {number} ({done.kind}) was not recovered from in time")
        for number, done in enumerate(nemesis.done)
        if done.recovery is None
    ]


async def wind_down(
    supervisor: Supervisor, monitor: ProgressMonitor, generator: Generator, say: Say, timing: Timing = DEFAULT_TIMING
) -> list[Violation]:
    """Wait until everything is applied, stop the workers, and have a relay publish the rest."""
    violations = []
    ends = generator.acknowledged_ends()
    drained = await monitor.until_applied(ends, timing.drain_seconds)
    if drained is None:
        behind = await monitor.behind(ends)
        violations.append(Violation("not_recovered", "end", f"{behind} records were never applied"))
    else:
        say(f"everything applied {drained:.1f} s after the last event")
    violations += [
        Violation("crashed", "stop", f"a stopped worker exited with {status}")
        for status in await supervisor.stop_all()
        if status not in ALLOWED_STOP_STATUSES
    ]
    relay = supervisor.start_worker("--roles", "relay")
    if not await monitor.until_published(timing.publish_seconds):
        violations.append(Violation("outcome_missing", "end", "not every outbox row was published"))
    await supervisor.stop_worker(relay)
    violations += [
        Violation("crashed", exit_.worker, f"exited unexpectedly with status {exit_.status}:\n{exit_.log}")
        for exit_ in supervisor.exits
    ]
    return violations


async def check(  # noqa: PLR0913, PLR0917 - what a run leaves behind
    deployment: Deployment,
    options: Options,
    generator: Generator,
    violations: list[Violation],
    faults: Sequence[FaultRecord],
    say: Say,
    rules: Settings = RULES,
) -> Result:
    """Read the evidence and judge it."""
    started = time.monotonic()
    tables = await read_tables(deployment.database_url)
    records = await asyncio.to_thread(read_topics, deployment.servers.kafka.bootstrap_servers, deployment.prefix)
    evidence = Evidence(generator.journal, records, tables)
    read = time.monotonic()
    say(f"read {sum(map(len, records.values())):,} records in {read - started:.1f} s; checking")
    finding = await asyncio.to_thread(judge, evidence, rules)
    finding.add(violations)
    say(f"checked in {time.monotonic() - read:.1f} s")
    return Result(options, finding, faults, evidence)


def recoveries_by_kind(faults: Sequence[FaultRecord]) -> dict[str, tuple[int, float, float]]:
    """Return for each kind of fault: how often it was injected; median and longest recovery without another fault."""
    kinds: dict[str, tuple[int, float, float]] = {}
    for kind in sorted({done.kind for done in faults}):
        alone = sorted(d.recovery for d in faults if d.kind == kind and d.alone and d.recovery is not None)
        count = sum(done.kind == kind for done in faults)
        kinds[kind] = (count, _percentile(alone, 0.5), max(alone, default=float("nan")))
    return kinds


def commit() -> str:
    """Return the commit under test, with a + if the tree has uncommitted changes."""
    head, dirty = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "-uno")
    return f"{head or 'unknown'}{'+' if dirty else ''}"


def _git(*words: str) -> str:
    command = ["git", *words]
    return subprocess.run(command, capture_output=True, check=False, text=True, cwd=ROOT).stdout.strip()


def _describe(done: FaultRecord) -> str:
    lasted = done.ended - done.started
    if done.recovery is None:
        return f"{done.kind}: lasted {lasted:.1f} s, NOT recovered"
    return f"{done.kind}: lasted {lasted:.1f} s, recovered after {done.recovery:.2f} s"


def _percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted values; nan if there are none."""
    return values[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


def python_command(*words: str) -> list[str]:
    """Return the command that runs a module with this interpreter."""
    return [sys.executable, "-m", *words]
