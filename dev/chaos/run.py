"""One run: a shop opens, faults happen to it, everything heals, and the checker looks at what is left."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from dev.chaos.checker import Finding, judge
from dev.chaos.cluster import CART_TTL_SECONDS, ORDER_TTL_SECONDS, ROOT, Deployment, Servers, open_deployment
from dev.chaos.evidence import Evidence, read_tables, read_topics
from dev.chaos.faults import WORKERS, FaultRecord, Nemesis
from dev.chaos.generator import Generator
from dev.chaos.progress import ProgressMonitor
from dev.chaos.supervisor import Supervisor
from dev.chaos.workload import Workload
from dev.oracle.history import Violation
from dev.oracle.shop import Settings

RULES = Settings(cart_ttl=timedelta(seconds=CART_TTL_SECONDS), order_ttl=timedelta(seconds=ORDER_TTL_SECONDS))
READY_SECONDS = 120.0
# After the last fault the shop goes on for a while, so that a run does not end in the middle of one.
CALM_SECONDS = 3.0
# In order, by SIGTERM before its handlers were there, or not there at all.
FINE_STOPS = (0, -signal.SIGTERM, None)

Say = Callable[[str], None]


class Timing(NamedTuple):
    """How long the end of a run may take: until all is applied, and until all is published."""

    drain_seconds: float = 120.0
    publish_seconds: float = 60.0


PATIENT = Timing()


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is: `seconds` of `faults` (by name; none named means all), `rate` in events a second."""

    seed: int
    seconds: float
    rate: float
    directory: Path
    faults: frozenset[str] = frozenset()


@dataclass(slots=True)
class Result:
    """A run's finding, the faults behind it, and what it took to check them."""

    options: Options
    finding: Finding
    faults: Sequence[FaultRecord]
    evidence: Evidence
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def violations(self) -> Sequence[Violation]:
        """Everything that must not be."""
        return self.finding.violations

    def line(self) -> str:
        """Return the run in Jepsen's form, on one line."""
        recoveries = sorted(done.recovery for done in self.faults if done.recovery is not None)
        p50, p99 = (_percentile(recoveries, share) for share in (0.50, 0.99))
        return (
            f"seed={self.options.seed} commit={commit()} {self.finding.line} faults={len(self.faults)} "
            f"recovery_p50={p50:.2f}s recovery_p99={p99:.2f}s"
        )


async def run(servers: Servers, options: Options, say: Say) -> Result:
    """Run once; the deployment's topics and database are left for who wants to look, the servers' end removes them."""
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
            violations = await _play(options, supervisor, monitor, generator, nemesis)
            violations += await wind_down(supervisor, monitor, generator, say)
        finally:
            await supervisor.close()
            await monitor.close()
        return await check(deployment, options, generator, violations, nemesis.done, say)


async def _play(
    options: Options, supervisor: Supervisor, monitor: ProgressMonitor, generator: Generator, nemesis: Nemesis
) -> list[Violation]:
    """Let the shop run and the faults happen; returns what no fault excuses."""
    supervisor.open()
    for _ in range(WORKERS):
        supervisor.start_worker()
    publishing = asyncio.create_task(generator.run(options.seconds + CALM_SECONDS), name="generator")
    while not generator.acknowledged_ends():
        await asyncio.sleep(0.1)
    if await monitor.until_applied(generator.acknowledged_ends(), READY_SECONDS) is None:
        publishing.cancel()
        return [Violation("not_recovered", "start", "the workers applied nothing, before any fault")]
    await nemesis.run(time.monotonic() + options.seconds, options.faults)
    await publishing
    return [
        Violation("not_recovered", done.kind, f"fault {number} ({done.kind}) was not made good in time")
        for number, done in enumerate(nemesis.done)
        if done.recovery is None
    ]


async def wind_down(
    supervisor: Supervisor, monitor: ProgressMonitor, generator: Generator, say: Say, timing: Timing = PATIENT
) -> list[Violation]:
    """Wait until everything is applied, stop the workers in order, and let what they left be published."""
    violations = []
    ends = generator.acknowledged_ends()
    drained = await monitor.until_applied(ends, timing.drain_seconds)
    if drained is None:
        behind = await monitor.behind(ends)
        violations.append(Violation("not_recovered", "end", f"{behind} records were never applied"))
    else:
        say(f"everything applied {drained:.1f} s after the last event")
    violations += [
        Violation("crashed", "stop", f"a worker that was asked to stop ended with {status}")
        for status in await supervisor.stop_all()
        if status not in FINE_STOPS
    ]
    relay = supervisor.start_worker("--roles", "relay")
    if not await monitor.until_published(timing.publish_seconds):
        violations.append(Violation("outcome_missing", "end", "the outbox was never published whole"))
    await supervisor.stop_worker(relay)
    violations += [
        Violation("crashed", exit_.worker, f"ended by itself with status {exit_.status}:\n{exit_.log}")
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
    """Read everything and judge it."""
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
    """Return for each kind how often it was made, and the median and longest recovery where no other met it."""
    kinds: dict[str, tuple[int, float, float]] = {}
    for kind in sorted({done.kind for done in faults}):
        alone = sorted(d.recovery for d in faults if d.kind == kind and d.alone and d.recovery is not None)
        count = sum(done.kind == kind for done in faults)
        kinds[kind] = (count, _percentile(alone, 0.5), max(alone, default=float("nan")))
    return kinds


def commit() -> str:
    """Return the commit that runs, with a + when the tree has changes."""
    head, dirty = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "-uno")
    return f"{head or 'unknown'}{'+' if dirty else ''}"


def _git(*words: str) -> str:
    command = ["git", *words]
    return subprocess.run(command, capture_output=True, check=False, text=True, cwd=ROOT).stdout.strip()


def _describe(done: FaultRecord) -> str:
    lasted = done.ended - done.started
    if done.recovery is None:
        return f"{done.kind}: lasted {lasted:.1f} s, NOT made good"
    return f"{done.kind}: lasted {lasted:.1f} s, made good after {done.recovery:.2f} s"


def _percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted values; nan of none."""
    return values[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


def python_command(*words: str) -> list[str]:
    """Return the command that runs one of our modules in this environment."""
    return [sys.executable, "-m", *words]
