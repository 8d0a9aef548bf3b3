"""Compares contestants on the same events, each on a fresh copy of the same database, interleaved in rounds."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from dev.benchmarks import programs
from dev.benchmarks.backlog import Progress, Topics
from dev.benchmarks.errors import BenchmarkError
from dev.benchmarks.floor import Rehearsal, rehearse, time_floor
from dev.benchmarks.programs import Program, Timed
from dev.benchmarks.report import Figure
from dev.benchmarks.servers import Servers, load_stock, schema_fingerprint
from dev.benchmarks.sizes import Sizes
from dev.benchmarks.workload import Workload, utc_now

DEFAULT_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Bench:
    """What every scenario works with: servers, topics, sizes, progress display and the directory of data files."""

    servers: Servers
    topics: Topics
    sizes: Sizes
    progress: Progress
    data: Path


@dataclass(frozen=True, slots=True)
class Contestant:
    """One contestant: a program with its events, or the floor where there is a rehearsal."""

    name: str
    workload: Workload
    program: Program | None = None
    rehearsal: Rehearsal | None = None
    template: str = ""


async def compare(bench: Bench, contestants: Sequence[Contestant], rounds: int) -> dict[str, Figure]:
    """Run all contestants once per round, each round starting with another; returns events per second by name."""
    found: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        turn = number % len(contestants)
        for contestant in (*contestants[turn:], *contestants[:turn]):
            bench.progress(f"round {number + 1}: {contestant.name}", 0, 1)
            timed = await run(bench, contestant)
            bench.progress(f"round {number + 1}: {contestant.name}, {timed.rate:,.0f} events/s", 1, 1)
            found[contestant.name].append(timed.rate)
    return {name: Figure(name, "events/s", tuple(rates)) for name, rates in found.items()}


async def warm_up(bench: Bench, workload: Workload) -> None:
    """Warm up servers and caches before anything is measured."""
    async with template_for(bench, workload) as template:
        await run(bench, Contestant("warm-up", workload, programs.worker(), template=template))


async def run(bench: Bench, contestant: Contestant) -> Timed:
    """Measure one contestant once."""
    with bench.servers.database(contestant.template) as database_url:
        if contestant.rehearsal is not None:
            return await _run_floor(database_url, contestant.rehearsal)
        if contestant.program is None:
            raise BenchmarkError(f"{contestant.name} is neither a program nor a rehearsal")
        workload = contestant.workload
        with bench.topics.hidden(workload.records(utc_now()), workload.events, bench.progress) as backlog:
            return await programs.time_program(contestant.program, bench.topics, backlog, database_url, bench.progress)


async def _run_floor(database_url: str, rehearsal: Rehearsal) -> Timed:
    """Time the floor, and check that it ends with the rehearsal's final rows."""
    timed = await time_floor(database_url, rehearsal)
    if await final_rows(database_url, rehearsal.events) != rehearsal.final_rows:
        raise BenchmarkError("the floor ended with other rows than its rehearsal")
    return timed


@asynccontextmanager
async def template_for(bench: Bench, workload: Workload) -> AsyncIterator[str]:
    """Give a template database with the workload's stock, dropped at the end."""
    name = f"bench_{workload.name}_{schema_fingerprint()}"
    bench.servers.drop_template(name)
    with bench.servers.new_template(name) as url:
        await load_stock(url, workload.stock)
    try:
        yield name
    finally:
        bench.servers.drop_template(name)


async def rehearsed(bench: Bench, workload: Workload, template: str, batch: int = DEFAULT_BATCH) -> Rehearsal:
    """Rehearse the workload in batches of the worker's size."""
    with bench.servers.database(template) as url:
        rehearsal = await rehearse(url, workload.records(utc_now()), batch, bench.progress)
        return rehearsal._replace(final_rows=await final_rows(url, workload.events))


async def final_rows(database_url: str, events: int) -> str:
    """Return a fingerprint of the final rows; raises BenchmarkError unless `events` are in the inbox."""
    connection = await asyncpg.connect(database_url)
    try:
        applied = await connection.fetchval("SELECT count(*) FROM inbox")
        if applied != events:
            raise BenchmarkError(f"{applied:,} of {events:,} events are in the inbox")
        fingerprint: str = await connection.fetchval(_FINAL_ROWS)
        return fingerprint
    finally:
        await connection.close()


_FINAL_ROWS = """
SELECT concat_ws(' ',
    (SELECT md5(string_agg(concat_ws(',', product_id, on_hand, reserved, version, last_sequence), ';'
        ORDER BY product_id)) FROM inventory),
    (SELECT md5(string_agg(concat_ws(',', product_id, sequence, type, quantity, reference_id), ';'
        ORDER BY product_id, sequence)) FROM inventory_transactions),
    (SELECT md5(string_agg(concat_ws(',', order_id, status, lines, version), ';' ORDER BY order_id)) FROM orders),
    (SELECT md5(string_agg(concat_ws(',', cart_id, status, held, version), ';' ORDER BY cart_id)) FROM carts),
    (SELECT count(*) FROM outbox))
"""
