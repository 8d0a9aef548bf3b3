"""A database that is locked, slow or refuses us, and an event that it cannot serve: what waits, what is set aside."""

import asyncio

import asyncpg
import pytest

from engine import execute as execute_module
from engine.execute import execute
from storage.database import open_pool
from storage.errors import in_words, is_contention, is_suspect, is_unavailable
from tests.integration.shop import POLICY, T0, Shop, created, product, task

# Sleeps while the order or product named slow is saved: the statement of any batch with it exceeds the timeout.
_SLOW = """
CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(30); RETURN NEW; END';
CREATE TRIGGER slow BEFORE INSERT ON orders FOR EACH ROW WHEN (NEW.order_id = 'slow') EXECUTE FUNCTION be_slow()
"""


async def test_a_locked_table_is_waited_for(shop: Shop, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is no bug and names the statement that waits for the lock; once it is free the batch is applied."""
    await shop.apply(product("p", 10))
    monkeypatch.setattr("storage.database._TIMEOUTS", {"lock_timeout": "200ms"})
    async with await open_pool(database_url, 1) as pool:
        async with shop.pool.acquire() as other, other.transaction():
            await other.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            # Far less than retries of a lock's whole time limit would take: the caller soon says what it waits for.
            with pytest.raises(Exception) as caught:  # noqa: PT011 - the next lines check which error it is
                async with asyncio.timeout(5):
                    await execute(pool, [task(created("o", {"p": 3}))], POLICY, T0)
        assert (True, False, False) == (
            is_unavailable(caught.value),
            is_suspect(caught.value),
            is_contention(caught.value),
        )
        assert in_words(caught.value) == (
            "another transaction is in the way: canceling statement due to lock timeout, in SELECT FROM orders"
        )
        await execute(pool, [task(created("o", {"p": 3}))], POLICY, T0)
    assert (10, 3) == await shop.stock("p")


async def test_an_event_that_always_times_out_is_found_and_set_aside(
    shop: Shop, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a whole the batch only raises; isolated, the event becomes a dead letter and all others are applied."""
    await shop.apply(product("p", 10))
    await shop.pool.execute(_SLOW)
    batch = [task(created(order_id, {"p": 1})) for order_id in ("a", "b", "slow", "c", "d")]
    monkeypatch.setattr("storage.database._TIMEOUTS", {"statement_timeout": "300ms"})
    async with await open_pool(database_url, 1) as pool:
        with pytest.raises(asyncpg.QueryCanceledError):
            await execute(pool, batch, POLICY, T0)
        assert (10, 0) == await shop.stock("p")
        result = await execute(pool, batch, POLICY, T0, isolate=True)
    dispositions = [verdict.disposition for verdict in result.verdicts]
    assert ["applied", "applied", "dead_lettered", "applied", "applied"] == dispositions
    assert [("retries_exhausted", "created-slow")] == await shop.rows("SELECT reason, event_id FROM dead_letters")
    assert (10, 4) == await shop.stock("p")


async def test_no_event_is_to_blame_for_a_server_that_is_slow_for_all(
    shop: Shop, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the server does not answer the simplest look-ups either, nothing is dead-lettered: the error is raised."""
    await shop.apply(product("p", 10))
    await shop.pool.execute(_SLOW)
    monkeypatch.setattr("storage.database._TIMEOUTS", {"statement_timeout": "300ms"})
    monkeypatch.setattr(execute_module, "SIMPLE_LOOKUPS_SECONDS", 0.2)
    batch = [task(created("slow", {"p": 1}))]
    async with await open_pool(database_url, 1) as pool, shop.pool.acquire() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("LOCK TABLE carts IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(asyncpg.QueryCanceledError):
            await execute(pool, batch, POLICY, T0, isolate=True)
        await transaction.rollback()
        assert [] == await shop.rows("SELECT reason FROM dead_letters")
        await execute(pool, batch, POLICY, T0, isolate=True)
    assert [("created-slow",)] == await shop.rows("SELECT event_id FROM dead_letters")


async def test_a_rotated_password_is_waited_for(shop: Shop, database_url: str) -> None:
    """It is no bug of ours, and the error says what is wrong."""
    user = await shop.pool.fetchval("SELECT current_user")
    assert f"{user}:" in database_url
    wrong = database_url.replace(f"{user}:", f"{user}:not-", 1)
    async with await open_pool(wrong, 1) as pool:
        with pytest.raises(asyncpg.InvalidPasswordError) as caught:
            await execute(pool, [task(product("p", 1))], POLICY, T0)
    assert is_unavailable(caught.value)
    assert "password authentication failed" in in_words(caught.value)


async def test_an_id_that_always_collides_is_found_and_set_aside(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unique violation that no retry gets over is the event's: the others go on."""
    await shop.apply(product("p", 10))
    monkeypatch.setattr(execute_module, "MAX_CONTENTION_RETRIES", 2)
    await shop.pool.execute("CREATE UNIQUE INDEX ON orders (user_id)")
    orders = [created(order_id, {"p": 1}, user_id=user) for order_id, user in (("a", "x"), ("b", "x"), ("c", "y"))]
    assert ["applied", "dead_lettered", "applied"] == await shop.apply(*orders)
    assert (10, 2) == await shop.stock("p")
