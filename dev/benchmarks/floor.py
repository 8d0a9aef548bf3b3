"""The floor: the time that the database alone needs to write the worker's rows.

A rehearsal applies the workload to a scratch database in the worker's batches and records every COPY, INSERT, UPDATE
and DELETE with its rows. The floor replays these, in the same transactions, on another copy of the database: no Kafka,
no decoding, no look-ups, no locking reads, no rules. Outgoing rows are written as already published. It uses the
worker's driver, so that the comparison is not one of drivers.
"""

import gc
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from dev.benchmarks.backlog import Progress
from dev.benchmarks.errors import BenchmarkError
from dev.benchmarks.programs import Timed
from dev.benchmarks.workload import utc_now
from dev.records import ConsumedRecord, ProducedRecord
from domain.model import Policy
from engine.execute import execute
from engine.tasks import EventTask
from storage.database import Connection, open_pool
from workers.consuming.records import DecodedRecord, read_records

_TRANSACTION = frozenset(("BEGIN;", "COMMIT;", "ROLLBACK;"))
_WRITES = frozenset(("INSERT", "UPDATE", "DELETE", "MERGE", "WITH"))

Write = tuple[str, tuple[Any, ...], dict[str, Any]]
Batch = list[Write]


class Rehearsal(NamedTuple):
    """The recorded writes, by transaction, and a fingerprint of the final rows."""

    events: int
    batches: list[Batch]
    final_rows: str = ""


async def rehearse(
    database_url: str, records: Iterable[ProducedRecord], batch_size: int, progress: Progress
) -> Rehearsal:
    """Apply the records in batches to a scratch database and record the writes."""
    items = [
        ConsumedRecord(one.topic, 0, offset, one.timestamp_ms, one.key, one.value, one.headers)
        for offset, one in enumerate(records)
    ]
    recorder = _RecordingPool(await open_pool(database_url, 2))
    try:
        for start in range(0, len(items), batch_size):
            now = utc_now()
            read = read_records(items[start : start + batch_size], "", now)
            tasks = [_task(item) for item in read]
            await execute(recorder, tasks, Policy(), now)
            progress("rehearsing the floor", min(start + batch_size, len(items)), len(items))
    finally:
        await recorder.close()
    return Rehearsal(len(items), recorder.batches)


async def time_floor(database_url: str, rehearsal: Rehearsal) -> Timed:
    """Time the replay of the recorded writes."""
    pool = await open_pool(database_url, 1)
    try:
        async with pool.acquire() as connection:
            # Keep the garbage collector from traversing the many recorded rows.
            gc.collect()
            gc.freeze()
            started = time.perf_counter()
            for batch in rehearsal.batches:
                async with connection.transaction():
                    for method, arguments, options in batch:
                        await getattr(connection, method)(*arguments, **options)
            return Timed(rehearsal.events, time.perf_counter() - started)
    finally:
        gc.unfreeze()
        await pool.close()


def _task(item: object) -> EventTask:
    if not isinstance(item, DecodedRecord):
        raise BenchmarkError(f"the workload has a record that cannot be read: {item}")
    return EventTask(item.command, item.event.digest, item.record, item.event.type)


class _RecordingPool:
    """A pool whose connections record what they write in committed transactions."""

    def __init__(self, pool: Any) -> None:  # noqa: ANN401 - asyncpg is published without types
        self._pool = pool
        self.batches: list[Batch] = []

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator["_RecordingConnection"]:
        async with self._pool.acquire() as connection:
            yield _RecordingConnection(connection, self.batches)

    async def close(self) -> None:
        await self._pool.close()


class _RecordingConnection:
    """A connection that forwards every call and records writes: a commit keeps them, a rollback drops them."""

    def __init__(self, connection: Connection, batches: list[Batch]) -> None:
        self._connection = connection
        self._batches = batches
        self._writes: Batch = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the real one has
        return getattr(self._connection, name)

    async def copy_records_to_table(self, table: str, **options: Any) -> str:  # noqa: ANN401 - asyncpg's options
        options["records"] = list(options["records"])
        status: str = await self._connection.copy_records_to_table(table, **options)
        if table == "outbox":
            options = _published(options)
        self._writes.append(("copy_records_to_table", (table,), options))
        return status

    async def execute(self, statement: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's
        result = await self._run("execute", statement, arguments, options)
        if statement == "COMMIT;":
            self._batches.append(self._writes.copy())
        if statement in _TRANSACTION:
            self._writes.clear()
        return result

    async def fetch(self, statement: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's
        return await self._run("fetch", statement, arguments, options)

    async def fetchval(self, statement: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's
        return await self._run("fetchval", statement, arguments, options)

    async def _run(self, method: str, statement: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:  # noqa: ANN401 - asyncpg's
        result = await getattr(self._connection, method)(statement, *arguments, **options)
        if statement.split(None, 1)[0].upper() in _WRITES:
            self._writes.append((method, (statement, *arguments), options))
        return result


def _published(options: dict[str, Any]) -> dict[str, Any]:
    """Return a COPY of outgoing rows with a publication time added."""
    columns = options["columns"]
    now = datetime.now(UTC)
    return {
        **options,
        "columns": (*columns, "published_at"),
        "records": [(*row, now) for row in options["records"]],
    }
