"""Maintenance: old rows are pruned in bounded steps, gauges show the tables, and audit violations are logged."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from typing_extensions import override

from dev.servers.postgres import start as start_postgres
from engine import metrics
from storage import migrate
from storage.audit import quick_audit
from storage.database import Pool, connect, open_pool
from tests.integration import sample
from workers import maintenance
from workers.maintenance import Maintained, Maintenance, MaintenanceOptions

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
BOUND_SECONDS = 30.0
ALWAYS = MaintenanceOptions(timedelta(days=7), timedelta(days=1), 0.0, 0.0, 0.0)


class Ticker:
    """A monotonic clock that a test moves by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.seconds


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """A worker's pool on a database with every kind of row, without violations."""
    opened = await open_pool(database_url, 2)
    await sample.fill(opened)
    yield opened
    await opened.close()


@pytest.fixture
async def connection(pool: Pool, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that bypasses triggers."""
    assert pool is not None
    opened = await connect(database_url)
    await opened.execute("SET session_replication_role = replica")
    yield opened
    await opened.close()


# --- retention ----------------------------------------------------------------------------------


async def test_old_rows_are_pruned_and_others_stay(pool: Pool, connection: asyncpg.Connection) -> None:
    """Inbox rows are pruned by age unless their event is parked, outbox rows by age once they are published."""
    await connection.execute("DELETE FROM inbox; DELETE FROM outbox")
    await progress(connection, "order.created", 0, NOW)
    await inbox(connection, "old", 3, NOW - timedelta(days=7, seconds=1))
    await inbox(connection, "young", 2, NOW - timedelta(days=7, seconds=-1))
    await inbox(connection, "waiting", 1, NOW - timedelta(days=30), outcome="parked")
    await outbox(connection, 4, NOW - timedelta(days=1, seconds=1), published=True)
    await outbox(connection, 2, NOW - timedelta(days=1, seconds=-1), published=True)
    await outbox(connection, 1, NOW - timedelta(days=30), published=False)
    done = await Maintenance(pool, ALWAYS, lambda: NOW).run_once()
    assert Maintained(3, 4, 0) == done
    assert (3, 3) == (
        await connection.fetchval("SELECT count(*) FROM inbox"),
        await connection.fetchval("SELECT count(*) FROM outbox"),
    )


async def test_ids_are_remembered_by_the_streams_clock(pool: Pool, connection: asyncpg.Connection) -> None:
    """While no partition is read, no id is pruned: the last batch may be redelivered after weeks."""
    await connection.execute("DELETE FROM inbox; DELETE FROM stream_progress")
    died = NOW - timedelta(days=20)
    await progress(connection, "order.created", 0, died)
    await progress(connection, "order.created", 1, NOW)
    await inbox(connection, "needed", 2, died)
    await inbox(connection, "long read", 3, died - timedelta(days=8))
    assert 3 == (await Maintenance(pool, ALWAYS, lambda: NOW).run_once()).inbox_pruned
    await progress(connection, "order.created", 0, NOW)
    assert 2 == (await Maintenance(pool, ALWAYS, lambda: NOW).run_once()).inbox_pruned


async def test_pruning_is_bounded_and_goes_on(
    pool: Pool, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run takes a bounded number of bounded steps; the rest is due at once, not after the interval."""
    monkeypatch.setattr(maintenance, "PRUNE_STEP", 10)
    monkeypatch.setattr(maintenance, "MAX_PRUNE_STEPS", 3)
    await connection.execute("DELETE FROM inbox")
    await inbox(connection, "old", 75, NOW - timedelta(days=8))
    ticker = Ticker()
    keeper = Maintenance(pool, ALWAYS._replace(retention_interval_seconds=60.0), lambda: NOW, ticker)
    ticker.seconds += 60
    assert [30, 30, 15, 0] == [(await keeper.run_once()).inbox_pruned for _ in range(4)]


async def test_rows_that_are_never_published_hold_up_no_pruning(
    pool: Pool, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published rows behind any number of pending and unpublishable ones are pruned, and discarded ones too."""
    monkeypatch.setattr(maintenance, "PRUNE_STEP", 10)
    monkeypatch.setattr(maintenance, "MAX_PRUNE_STEPS", 3)
    await connection.execute("DELETE FROM inbox; DELETE FROM outbox")
    old = NOW - timedelta(days=2)
    await outbox(connection, 45, old, published=False)
    await connection.execute("UPDATE outbox SET publish_error = 'too large' WHERE position % 3 = 0")
    await outbox(connection, 40, old, published=True)
    await outbox(connection, 3, old, published=False)
    await connection.execute(
        "UPDATE outbox SET publish_error = 'too large', discarded_at = now()"
        " WHERE position > (SELECT max(position) - 3 FROM outbox)"
    )
    await outbox(connection, 4, NOW, published=True)
    keeper = Maintenance(pool, ALWAYS._replace(retention_interval_seconds=0.0), lambda: NOW)
    assert [0, 5 + 10, 10 + 10 + 5 + 3, 0] == [(await keeper.run_once()).outbox_pruned for _ in range(4)]
    assert 45 + 4 == await connection.fetchval("SELECT count(*) FROM outbox")


async def test_each_duty_has_its_own_interval(pool: Pool, connection: asyncpg.Connection) -> None:
    """Nothing is done before it is due."""
    ticker = Ticker()
    keeper = Maintenance(pool, ALWAYS._replace(audit_interval_seconds=600.0), lambda: NOW, ticker)
    ticker.seconds += 600
    assert 0 == (await keeper.run_once()).violations
    await connection.execute("UPDATE inventory SET last_sequence = 99 WHERE product_id = 'apple'")
    ticker.seconds += 599
    assert None is (await keeper.run_once()).violations
    ticker.seconds += 1
    assert 1 == (await keeper.run_once()).violations


# --- gauges -------------------------------------------------------------------------------------


async def test_gauges_show_what_is_pending(pool: Pool, connection: asyncpg.Connection) -> None:
    """Each gauge is what the tables say."""
    await connection.execute("UPDATE outbox SET published_at = now()")
    await outbox(connection, 2, NOW - timedelta(days=1), published=False)
    await connection.execute("UPDATE outbox SET publish_error = 'too large' WHERE published_at IS NULL")
    await connection.execute(
        "UPDATE outbox SET discarded_at = now() WHERE position = (SELECT max(position) FROM outbox)"
    )
    await outbox(connection, 2, NOW - timedelta(seconds=30), published=False)
    await progress(connection, "order.created", 1, NOW - timedelta(seconds=90))
    await progress(connection, "order.created", 0, NOW)
    await Maintenance(pool, ALWAYS, lambda: NOW).refresh_gauges()
    low = await connection.fetchval("SELECT count(*) FROM inventory WHERE available <= low_stock_threshold")
    assert (1, low, 2, 1, 30, 90) == (
        value(metrics.PARKED_EVENTS),
        value(metrics.LOW_STOCK_PRODUCTS),
        value(metrics.OUTBOX_PENDING),
        value(metrics.OUTBOX_PARKED),
        value(metrics.OUTBOX_OLDEST),
        value(metrics.WATERMARK_LAG),
    )
    assert low > 0


async def test_gauges_of_an_empty_database_are_zero(database_url: str) -> None:
    """No row, no backlog and no lag."""
    pool = await open_pool(database_url, 1)
    await Maintenance(pool, ALWAYS, lambda: NOW).refresh_gauges()
    await pool.close()
    gauges = (metrics.PARKED_EVENTS, metrics.OUTBOX_PENDING, metrics.OUTBOX_OLDEST, metrics.WATERMARK_LAG)
    assert [0.0] * 4 == [value(gauge) for gauge in gauges]


async def test_a_watermark_that_stands_still_is_logged_once(
    pool: Pool, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """After a minute one warning names the partition that holds expiry back; the next line says that it moves again."""
    caplog.set_level(logging.INFO, "workers.maintenance")
    await progress(connection, "order.created", 0, NOW)
    await progress(connection, "payment.succeeded", 3, NOW - timedelta(seconds=5))
    ticker = Ticker()
    keeper = Maintenance(pool, ALWAYS, lambda: NOW, ticker)
    for _ in range(4):
        await keeper.refresh_gauges()
        ticker.seconds += 30.5
    (warning,) = (entry for entry in caplog.records if entry.levelno == logging.WARNING)
    assert "partition 3 of payment.succeeded" in warning.getMessage()
    await progress(connection, "payment.succeeded", 3, NOW - timedelta(seconds=4))
    await keeper.refresh_gauges()
    await keeper.refresh_gauges()
    assert [logging.WARNING, logging.INFO] == [entry.levelno for entry in caplog.records]
    assert "The low watermark advances again; holds expire" == caplog.records[1].getMessage()


# --- audit --------------------------------------------------------------------------------------


async def test_violations_are_logged_with_their_numbers(
    pool: Pool, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """A violation is an error in the log with the product and the numbers, and the gauge counts it."""
    await connection.execute("UPDATE inventory SET reserved = reserved + 2 WHERE product_id = 'bread'")
    await Maintenance(pool, ALWAYS, lambda: NOW).audit()
    errors = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.ERROR]
    assert 2 == value(metrics.INVARIANT_VIOLATIONS)
    assert any("bread: reserved 5, held 3" in error for error in errors)
    await connection.execute("UPDATE inventory SET reserved = reserved - 2 WHERE product_id = 'bread'")
    await Maintenance(pool, ALWAYS, lambda: NOW).audit()
    assert 0 == value(metrics.INVARIANT_VIOLATIONS)


@pytest.mark.parametrize("side", ["server", "client"])
async def test_an_audit_that_times_out_says_so(
    pool: Pool,
    connection: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    side: str,
) -> None:
    """A check that did not take place is a warning, whichever side gives up; it is no violation and no crash."""
    setting = "QUICK_STATEMENT_TIMEOUT_SECONDS"
    monkeypatch.setattr(f"storage.audit.{setting}", 1.0 if side == "server" else 0.2)
    keeper = Maintenance(pool, ALWAYS, lambda: NOW)
    async with connection.transaction():
        await connection.execute("LOCK TABLE carts IN ACCESS EXCLUSIVE MODE")
        monkeypatch.setattr(keeper, "refresh_gauges", _nothing)
        maintained = await keeper.run_once()
    assert None is maintained.violations
    assert ["The audit did not end within"] == [
        record.getMessage()[:28] for record in caplog.records if record.levelno == logging.WARNING
    ]
    assert 0 == (await keeper.run_once()).violations


async def _nothing() -> None:
    """Stand in for the gauges, which the lock would hold up."""


async def test_the_quick_audit_does_not_scan_the_ledger(pool: Pool, connection: asyncpg.Connection) -> None:
    """Its cost does not grow with the ledger: of a product's thousands of entries one is read."""
    await connection.execute(
        "INSERT INTO inventory_transactions SELECT 'busy', n, 'IN', 1, n - 1, n, 0, 0, 'IMPORT', 'x', NULL, NULL, 'x',"
        " now(), now() FROM generate_series(1, 50000) n;"
        "INSERT INTO inventory (product_id, on_hand, reserved, low_stock_threshold, stock_status, alert_status,"
        " version, last_sequence, updated_at) VALUES ('busy', 50000, 0, 0, 'ok', 'ok', 50000, 50000, now());"
        "ANALYZE"
    )
    read = (
        "SELECT pg_stat_force_next_flush()",
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'inventory_transactions'",
    )
    async with pool.acquire() as working:
        await working.execute(read[0])
        before = await connection.fetchval(read[1])
        assert 0 == (await quick_audit(working)).violations
        await working.execute(read[0])
        products = await connection.fetchval("SELECT count(*) FROM inventory")
        assert await connection.fetchval(read[1]) - before <= products


# --- the loop -----------------------------------------------------------------------------------


async def test_maintenance_waits_for_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Maintenance goes on when the database is back, without a line in the log."""
    monkeypatch.setattr(maintenance, "LAST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(maintenance, "FIRST_RETRY_SECONDS", 0.05)
    server = start_postgres(fsync=False)
    try:
        await asyncio.to_thread(migrate.upgrade, server.url)
        pool = await open_pool(server.url, 1)
        turns = asyncio.Semaphore(0)
        keeper = _Counting(pool, turns)
        loop = asyncio.create_task(keeper.run())
        await _bounded(turns)
        await asyncio.to_thread(server.stop, "immediate")
        await _until_it_failed(keeper)
        await asyncio.to_thread(server.start)
        while not turns.locked():
            await turns.acquire()
        await _bounded(turns)
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop
        await pool.close()
    finally:
        server.close()
    ours = [entry for entry in caplog.records if entry.name.startswith("workers.")]
    assert [] == [entry.getMessage() for entry in ours if entry.levelno >= logging.WARNING]


async def test_a_bug_in_maintenance_stops_nothing(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is logged with its traceback, and maintenance runs again."""
    monkeypatch.setattr(maintenance, "FIRST_RETRY_SECONDS", 0.0)
    turns = asyncio.Semaphore(0)

    async def broken(*_: object) -> None:
        turns.release()
        raise ZeroDivisionError

    monkeypatch.setattr("workers.maintenance.gauges.read_gauges", broken)
    loop = asyncio.create_task(Maintenance(pool, ALWAYS, lambda: NOW).run())
    await _bounded(turns)
    await _bounded(turns)
    loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop
    assert any(entry.exc_info and entry.levelno == logging.ERROR for entry in caplog.records)


class _Counting(Maintenance):
    """Counts successful runs, and notices a failed one."""

    def __init__(self, pool: Pool, turns: asyncio.Semaphore) -> None:
        super().__init__(pool, ALWAYS, lambda: NOW)
        self._turns = turns
        self.failed = asyncio.Event()

    @override
    async def run_once(self) -> Maintained:
        try:
            done = await super().run_once()
        except Exception:
            self.failed.set()
            raise
        self._turns.release()
        return done


async def _until_it_failed(keeper: _Counting) -> None:
    async with asyncio.timeout(BOUND_SECONDS):
        await keeper.failed.wait()


async def _bounded(turns: asyncio.Semaphore) -> None:
    async with asyncio.timeout(BOUND_SECONDS):
        await turns.acquire()


def value(gauge: object) -> float:
    """Return a gauge's value."""
    return float(gauge._value.get())  # type: ignore[attr-defined] # noqa: SLF001 - prometheus_client has no reader


async def inbox(
    connection: asyncpg.Connection, name: str, count: int, at: datetime, *, outcome: str = "applied"
) -> None:
    """Insert events into the inbox."""
    await connection.execute(
        "INSERT INTO inbox SELECT $1 || n, 'test', '', $4, NULL, $3 FROM generate_series(1, $2::int) n",
        name,
        count,
        at,
        outcome,
    )


async def outbox(connection: asyncpg.Connection, count: int, at: datetime, *, published: bool) -> None:
    """Insert events into the outbox, of a type that the audit does not check."""
    await connection.execute(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, occurred_at, shard, created_at,"
        " published_at) SELECT gen_random_uuid(), 'inventory.reservations', 'o', 'x', '{}', $2, 0, $2, $3"
        " FROM generate_series(1, $1::int)",
        count,
        at,
        at if published else None,
    )


async def progress(connection: asyncpg.Connection, topic: str, partition: int, watermark: datetime) -> None:
    """Set how far a partition was read."""
    await connection.execute(
        "INSERT INTO stream_progress VALUES ($1, $2, 0, $3, now())"
        " ON CONFLICT (topic, partition) DO UPDATE SET watermark = excluded.watermark",
        topic,
        partition,
        watermark,
    )
