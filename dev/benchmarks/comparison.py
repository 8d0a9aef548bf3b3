"""Races: contestants on the same events, a fresh copy of the same database each, interleaved round by round."""

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
    """What every scenario gets: the servers, the topics, how much to do, and where to show progress."""

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


async def compare(bench: Bench, entries: Sequence[Contestant], rounds: int) -> dict[str, Figure]:
    """Run all entries once per round, beginning with another one each round; returns events per second by name."""
    found: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for number in range(rounds):
        turn = number % len(entries)
        for entry in (*entries[turn:], *entries[:turn]):
            bench.progress(f"round {number + 1}: {entry.name}", 0, 1)
            timed = await run(bench, entry)
            bench.progress(f"round {number + 1}: {entry.name}, {timed.rate:,.0f} events/s", 1, 1)
            found[entry.name].append(timed.rate)
    return {name: Figure(name, "events/s", tuple(rates)) for name, rates in found.items()}


async def warm_up(bench: Bench, workload: Workload) -> None:
    """Let the servers get used to the work, once, before anything is measured."""
    async with template_for(bench, workload) as template:
        await run(bench, Contestant("warm-up", workload, programs.worker(), template=template))


async def run(bench: Bench, entry: Contestant) -> Timed:
    """Measure one contestant once."""
    with bench.servers.database(entry.template) as database_url:
        if entry.rehearsal is not None:
            return await _run_floor(database_url, entry.rehearsal)
        if entry.program is None:
            raise BenchmarkError(f"{entry.name} is neither a program nor a rehearsal")
        workload = entry.workload
        with bench.topics.hidden(workload.records(utc_now()), workload.events, bench.progress) as backlog:
            return await programs.time_program(entry.program, bench.topics, backlog, database_url, bench.progress)


async def _run_floor(database_url: str, rehearsal: Rehearsal) -> Timed:
    """Time the floor, and hold it to the rehearsal's final rows."""
    timed = await time_floor(database_url, rehearsal)
    if await final_rows(database_url, rehearsal.events) != rehearsal.ends_as:
        raise BenchmarkError("the floor ended with other rows than its rehearsal")
    return timed


@asynccontextmanager
async def template_for(bench: Bench, workload: Workload) -> AsyncIterator[str]:
    """Give a template database with the workload's stock in it; dropped at the end."""
    name = f"bench_{workload.name}_{schema_fingerprint()}"
    bench.servers.drop_template(name)
    with bench.servers.template_in_the_making(name) as url:
        await load_stock(url, workload.stock)
    try:
        yield name
    finally:
        bench.servers.drop_template(name)


async def rehearsed(bench: Bench, workload: Workload, template: str, batch: int = DEFAULT_BATCH) -> Rehearsal:
    """Return the workload's rehearsal in the worker's batches."""
    with bench.servers.database(template) as url:
        rehearsal = await rehearse(url, workload.records(utc_now()), batch, bench.progress)
        return rehearsal._replace(ends_as=await final_rows(url, workload.events))


async def final_rows(database_url: str, events: int) -> str:
    """Return what tells final rows from others; raises BenchmarkError unless `events` were judged."""
    connection = await asyncpg.connect(database_url)
    try:
        judged = await connection.fetchval("SELECT count(*) FROM inbox")
        if judged != events:
            raise BenchmarkError(f"{judged:,} of {events:,} events are in the inbox")
        summary: str = await connection.fetchval(_FINAL_ROWS)
        return summary
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
