"""A commit that waits for a synchronous standby: nothing ends the wait, and nothing is visible before its end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from dev.servers import postgres
from dev.servers.postgres import PostgresServer
from engine.execute import execute
from engine.tasks import BatchResult
from storage import commit, migrate, outbox
from tests.integration.shop import POLICY, T0, Shop, created, open_shop, product, task
from tests.integration.stream import eventually

NOBODY = "no_such_standby"
LIMIT_SECONDS = 4.0
COMMITTED = [product("p", 10), created("o", {"p": 3})]


@asynccontextmanager
async def _shop_that_waits(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Shop, PostgresServer]]:
    """A shop whose server waits for a standby that does not exist, and whose time limit is far shorter than that."""
    monkeypatch.setattr("storage.database.COMMAND_TIMEOUT_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr("storage.database._TIMEOUTS", {"statement_timeout": f"{LIMIT_SECONDS}s"})
    monkeypatch.setattr(commit, "INQUIRY_SECONDS", 0.1)
    server = postgres.start(fsync=False)
    try:
        await asyncio.to_thread(migrate.upgrade, server.url)
        async with open_shop(server.url) as shop:
            _set_standby(server, NOBODY)
            yield shop, server
    finally:
        server.close()


async def test_a_commit_waits_for_its_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than any time limit: with a reason, invisible to the relay, and confirmed once in the end."""
    reasons: list[str] = []
    async with _shop_that_waits(monkeypatch) as (shop, server):
        committing = _commit(shop, reasons.append)
        await asyncio.wait({committing}, timeout=2 * LIMIT_SECONDS)
        assert (False, {commit.STANDBY}) == (committing.done(), set(reasons))
        assert [] == await _published(shop)
        _set_standby(server, "")
        async with asyncio.timeout(20):
            result = await committing
        assert ["applied", "applied"] == [verdict.disposition for verdict in result.verdicts]
        assert [] != await _published(shop)


async def test_a_cancelled_task_does_not_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that timed out or a worker that stops leaves the commit to its standby; a retry is a duplicate."""
    waits = asyncio.Event()
    async with _shop_that_waits(monkeypatch) as (shop, server):
        committing = _commit(shop, lambda _reason: waits.set())
        async with asyncio.timeout(20):
            await waits.wait()
        committing.cancel()
        await asyncio.wait({committing}, timeout=20)
        assert committing.cancelled()
        # A cancel request would take effect at once; this is time for it to arrive.
        await asyncio.sleep(0.5)
        assert [] == await _published(shop)
        _set_standby(server, "")
        await eventually(lambda: _published(shop))
        assert ["duplicate", "duplicate"] == await shop.apply(*COMMITTED)


async def test_a_wait_that_an_operator_ends_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the operator's decision; the server keeps the commit, and its warning is in the worker's log."""
    waits = asyncio.Event()
    async with _shop_that_waits(monkeypatch) as (shop, _server):
        committing = _commit(shop, lambda _reason: waits.set())
        async with asyncio.timeout(20):
            await waits.wait()
            await shop.pool.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            await committing
    (line,) = [line.getMessage() for line in caplog.records if line.name == commit.__name__]
    assert "The server answered COMMIT with a warning: canceling wait for synchronous replication" in line


def _commit(shop: Shop, on_wait: Callable[[str], None]) -> asyncio.Task[BatchResult]:
    return asyncio.create_task(execute(shop.pool, [task(event) for event in COMMITTED], POLICY, T0, on_wait=on_wait))


async def _published(shop: Shop) -> list[str]:
    """Return the types that a relay would publish now."""
    async with shop.pool.acquire() as connection:
        pending = await outbox.pending(connection, list(range(outbox.SHARDS)), 0, 100, now=T0)
    return [event.type for event in pending]


def _set_standby(server: PostgresServer, name: str) -> None:
    server.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    server.sql("SELECT pg_reload_conf()")
