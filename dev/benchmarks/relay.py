"""How fast the relay publishes a full outbox."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import asyncpg

from dev.benchmarks import programs
from dev.benchmarks.comparison import Bench
from dev.benchmarks.errors import BenchmarkError
from dev.benchmarks.report import Figure, Section
from dev.benchmarks.servers import migrated_name
from domain.model import Cause, OutcomeKind, ReferenceType, ReservationOutcome
from engine.outbox_rows import outbox_row
from storage import outbox, save
from storage.save import OutboxRow

_READY_SECONDS = 30.0
_PATIENCE_SECONDS = 300.0
# A relay that is ready holds the lock of every shard.
_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"


async def relay(bench: Bench) -> Section:
    """Measure the publishing of rows that were all written in one commit."""
    count = bench.sizes.relay_rows
    program = programs.worker(roles="relay")
    group = bench.topics.new_group()
    rows = [_row(number) for number in range(count)]
    rates = []
    for _ in range(bench.sizes.rounds):
        with bench.servers.database(migrated_name()) as url:
            connection = await asyncpg.connect(url)
            try:
                with programs.running(program, bench.topics, group, url) as processes:
                    alive = programs.check_alive(processes)
                    await _ready(connection)
                    rates.append(count / await _drain(bench, connection, rows, alive))
            finally:
                await connection.close()
    return Section("relay", f"an outbox of {count:,} rows, published", [Figure("relay", "rows/s", tuple(rates))])


async def _ready(connection: asyncpg.Connection) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while await connection.fetchval(_LOCKS) <= outbox.SHARDS:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the relay did not lock every shard within {_READY_SECONDS:.0f} s")
        await asyncio.sleep(programs.POLL_SECONDS)


async def _drain(
    bench: Bench, connection: asyncpg.Connection, rows: list[OutboxRow], alive: Callable[[], None]
) -> float:
    """Return the seconds from the commit of the rows until all are published."""
    async with connection.transaction():
        await save.append_outbox(connection, rows)
    started = time.perf_counter()
    while waiting := (await outbox.backlog(connection))[0]:
        alive()
        if time.perf_counter() - started > _PATIENCE_SECONDS:
            raise BenchmarkError(f"{waiting:,} rows were not published within {_PATIENCE_SECONDS:.0f} s")
        bench.progress("publishing the outbox", len(rows) - waiting, len(rows))
        await asyncio.sleep(programs.POLL_SECONDS)
    return time.perf_counter() - started


def _row(number: int) -> OutboxRow:
    order_id = f"order-{number:08d}"
    cause = Cause("/shop/checkout", f"relay-{number:08d}", datetime.now(UTC))
    lines = {f"SKU-{number % 10_000 + place:07d}": 1 for place in range(3)}
    outcome = ReservationOutcome(OutcomeKind.RESERVED, ReferenceType.ORDER, order_id, None, lines, None, (), cause)
    return outbox_row(outcome)
