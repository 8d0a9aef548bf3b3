"""The audit finds every way in which stock, ledger and reservations can disagree, and nothing where they agree."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from dev.servers.postgres import PostgresServer
from storage.audit import MAX_EXAMPLES, AuditResult, Violation, audit, quick_audit
from storage.audit_checks import QUICK_CHECKS, RULES
from storage.database import Pool, connect, open_pool
from tests.integration import sample
from tests.integration.command_line import Run, runner


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line on this test's database."""
    monkeypatch.setenv("INVENTORY_DATABASE_URL", database_url)
    return runner()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """A worker's pool on a database with every kind of row, without violations."""
    opened = await open_pool(database_url, 2)
    await sample.fill(opened)
    yield opened
    await opened.close()


@pytest.fixture
async def connection(pool: Pool, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that bypasses triggers, to corrupt rows."""
    assert pool is not None
    opened = await connect(database_url)
    await opened.execute("SET session_replication_role = replica")
    yield opened
    await opened.close()


CORRUPTIONS = {
    "ledger: an entry is missing": (
        "DELETE FROM inventory_transactions WHERE product_id = 'apple' AND sequence = 3",
        {"ledger-sequence", "ledger-chain", "ledger-stock", "cart-ledger"},
    ),
    "ledger: the first entry is missing": (
        "DELETE FROM inventory_transactions WHERE product_id = 'cheese' AND sequence = 1",
        {"ledger-sequence", "ledger-chain", "ledger-stock"},
    ),
    "ledger: an entry too many": (
        (
            "INSERT INTO inventory_transactions SELECT product_id, sequence + 1, 'ADJUST', 1, on_hand_after,"
            " on_hand_after + 1, reserved_after, reserved_after, 'MANUAL', 'x', NULL, NULL, 'x', now(), now()"
            " FROM inventory_transactions WHERE product_id = 'apple' ORDER BY sequence DESC LIMIT 1"
        ),
        {"ledger-stock"},
    ),
    "ledger: an entry begins elsewhere": (
        (
            "UPDATE inventory_transactions SET on_hand_before = on_hand_before + 1, on_hand_after = on_hand_after + 1"
            " WHERE product_id = 'apple' AND sequence = 4"
        ),
        {"ledger-chain"},
    ),
    "ledger: an entry says another quantity": (
        "UPDATE inventory_transactions SET quantity = quantity + 1 WHERE product_id = 'apple' AND sequence = 2",
        {"ledger-entry"},
    ),
    "ledger: an entry says another type": (
        (
            "UPDATE inventory_transactions SET type = 'IN' WHERE product_id = 'bread' AND type = 'RESERVE'"
            " AND reference_id = 'reserved'"
        ),
        {"ledger-entry"},
    ),
    "ledger: a product that is not in stock": (
        "DELETE FROM inventory WHERE product_id = 'cheese'",
        {"ledger-stock", "alerts"},
    ),
    "ledger: an entry for another order": (
        (
            "UPDATE inventory_transactions SET reference_id = 'nobody' WHERE reference_id = 'reserved'"
            " AND product_id = 'bread'"
        ),
        {"order-ledger"},
    ),
    "ledger: an entry for another cart": (
        (
            "UPDATE inventory_transactions SET reference_id = 'nobody' WHERE reference_id = 'cart-converted'"
            " AND product_id = 'cheese'"
        ),
        {"cart-ledger"},
    ),
    "stock: on hand without an entry": (
        "UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id = 'apple'",
        {"ledger-stock"},
    ),
    "stock: reserved without a hold": (
        "UPDATE inventory SET reserved = reserved + 1 WHERE product_id = 'apple'",
        {"ledger-stock", "holds"},
    ),
    "stock: more reserved than on hand": (
        (
            "ALTER TABLE inventory DROP CONSTRAINT ck_inventory_reserved;"
            "UPDATE inventory SET reserved = 5, stock_status = 'out', alert_status = 'out' WHERE product_id = 'dust'"
        ),
        {"stock", "ledger-stock", "holds"},
    ),
    "stock: another last sequence": (
        "UPDATE inventory SET last_sequence = last_sequence + 1 WHERE product_id = 'apple'",
        {"ledger-stock"},
    ),
    "stock: a wrong status": (
        "UPDATE inventory SET stock_status = 'low' WHERE product_id = 'apple'",
        {"status"},
    ),
    "stock: a threshold changed by hand": (
        "UPDATE inventory SET low_stock_threshold = 1000 WHERE product_id = 'apple'",
        {"status"},
    ),
    "stock: an alert that was not published": (
        "UPDATE inventory SET alert_status = 'ok' WHERE product_id = 'cheese'",
        {"status", "alerts"},
    ),
    "order: a hold vanished": (
        "UPDATE orders SET status = 'expired', expires_at = NULL WHERE order_id = 'reserved'",
        {"holds", "order-status"},
    ),
    "order: gone": (
        "DELETE FROM orders WHERE order_id = 'reserved'",
        {"holds", "order-ledger"},
    ),
    "order: a hold without a deadline": (
        "UPDATE orders SET expires_at = NULL WHERE order_id = 'reserved'",
        {"order-status"},
    ),
    "order: deducted but never paid": (
        "UPDATE orders SET paid = false WHERE order_id = 'deducted'",
        {"order-status"},
    ),
    "order: more deducted than the ledger has": (
        """UPDATE orders SET lines = '{"apple":[3,0,6,0,6,0,0,0,0],"cheese":[1,0,1,0,1,0,0,0,0]}'
        WHERE order_id = 'deducted'""",
        {"order-ledger"},
    ),
    "order: restocked more than deducted": (
        """UPDATE orders SET lines = '{"apple":[3,0,3,0,3,4,0,0,0],"cheese":[1,0,1,0,1,0,0,0,0]}'
        WHERE order_id = 'deducted'""",
        {"order-lines", "order-ledger"},
    ),
    "order: withheld and restocked do not fit": (
        """UPDATE orders SET lines = '{"apple":[3,0,3,0,3,0,4,0,0],"cheese":[1,0,1,0,1,0,0,0,0]}'
        WHERE order_id = 'deducted'""",
        {"order-lines"},
    ),
    "order: a line of text": (
        """UPDATE orders SET lines = '{"apple":"three"}' WHERE order_id = 'rejected'""",
        {"order-lines"},
    ),
    "order: no lines at all": (
        "UPDATE orders SET lines = '[]' WHERE order_id = 'rejected'",
        {"order-lines"},
    ),
    "cart: a hold too large": (
        """UPDATE carts SET held = '{"apple":3,"bread":1}' WHERE cart_id = 'cart-active'""",
        {"holds", "cart-ledger"},
    ),
    "cart: a converted cart holds": (
        """UPDATE carts SET held = '{"apple":3}' WHERE cart_id = 'cart-converted'""",
        {"cart-status", "cart-ledger"},
    ),
    "cart: a hold without a deadline": (
        "UPDATE carts SET expires_at = NULL WHERE cart_id = 'cart-active'",
        {"cart-status"},
    ),
    "cart: gone": (
        "DELETE FROM carts WHERE cart_id = 'cart-emptied'",
        {"cart-ledger"},
    ),
    "cart: a hold of text": (
        """UPDATE carts SET held = '{"apple":"two"}' WHERE cart_id = 'cart-emptied'""",
        {"cart-status"},
    ),
    "parked: an event that no order waits for": (
        "UPDATE orders SET waiting = NULL WHERE order_id = 'waiting'",
        {"parked"},
    ),
    "parked: a fact without its event": (
        "DELETE FROM parked_events",
        {"parked"},
    ),
    "alerts: published twice": (
        (
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, occurred_at, shard, created_at)"
            " SELECT gen_random_uuid(), aggregatetype, aggregateid, type, payload, occurred_at, shard, created_at"
            " FROM outbox WHERE aggregateid = 'cheese' AND aggregatetype = 'inventory.low_stock'"
            " ORDER BY position DESC LIMIT 1"
        ),
        {"alerts"},
    ),
    "alerts: the newest was not published": (
        "DELETE FROM outbox WHERE position = (SELECT max(position) FROM outbox WHERE aggregateid = 'bread')",
        {"alerts"},
    ),
}


async def test_a_database_without_corruption_passes(connection: asyncpg.Connection) -> None:
    """After every kind of event the audit finds no violation, and each check has read rows."""
    result = await _audit(connection)
    checked = {check.name: check.checked for check in result.checks}
    assert {} == _violations(result)
    assert tuple(RULES) == tuple(checked)
    assert [] == [name for name, count in checked.items() if count == 0]


@pytest.mark.parametrize(("statement", "expected"), CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
async def test_each_corruption_is_found(connection: asyncpg.Connection, statement: str, expected: set[str]) -> None:
    """A row changed by hand fails exactly the checks that concern it."""
    await connection.execute(statement)
    assert expected == set(_violations(await _audit(connection)))


@pytest.mark.parametrize(("statement", "expected"), CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
async def test_the_quick_audit_finds_what_its_checks_cover(
    pool: Pool, connection: asyncpg.Connection, statement: str, expected: set[str]
) -> None:
    """The worker's four checks need no scan of the ledger; holes in it are found by the full audit only."""
    await connection.execute(statement)
    inside = statement.startswith("DELETE FROM inventory_transactions") or "DELETE FROM inventory WHERE" in statement
    seen_quickly = {name for name in expected if name in QUICK_CHECKS and not (inside and name == "ledger-stock")}
    async with pool.acquire() as working:
        result = await quick_audit(working)
    assert seen_quickly == set(_violations(result))


async def test_a_violation_names_its_row_and_numbers(connection: asyncpg.Connection) -> None:
    """A violation names the product and the numbers that disagree."""
    reserved = await connection.fetchval("SELECT reserved FROM inventory WHERE product_id = 'apple'")
    await connection.execute("UPDATE inventory SET reserved = reserved + 2 WHERE product_id = 'apple'")
    holds = _violations(await _audit(connection))["holds"]
    assert [("apple", {"reserved": reserved + 2, "held": reserved})] == [
        (violation.product_id, violation.numbers) for violation in holds
    ]


async def test_examples_are_bounded_and_the_count_is_not(connection: asyncpg.Connection) -> None:
    """A thousand violations are counted, and only the first few are shown."""
    await connection.execute(
        "INSERT INTO inventory (product_id, on_hand, reserved, low_stock_threshold, stock_status, alert_status,"
        " version, last_sequence, updated_at)"
        " SELECT 'p' || n, 5, 0, 1, 'low', 'low', 1, 0, now() FROM generate_series(1, 1000) n"
    )
    result = await _audit(connection)
    status = next(check for check in result.checks if check.name == "status")
    assert (1000, MAX_EXAMPLES) == (status.violations, len(status.examples))


async def test_slices_cover_every_product(connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of one product cover the whole ledger, from before the first product to after the last."""
    monkeypatch.setattr("storage.audit.PRODUCTS_PER_SLICE", 1)
    await connection.execute(
        "UPDATE inventory_transactions SET quantity = quantity + 1 WHERE sequence = 1;"
        "INSERT INTO inventory_transactions SELECT x, 1, 'IN', 1, 0, 1, 0, 0, 'IMPORT', x, NULL, NULL, x, now(), now()"
        " FROM unnest(ARRAY['a', 'zzz']) x"
    )
    shown: list[tuple[str, int, int]] = []
    result = await audit(connection, _window(), lambda *step: shown.append(step))
    violations = _violations(result)
    assert ["apple", "bread", "cheese"] == [violation.product_id for violation in violations["ledger-entry"]]
    assert ["a", "zzz"] == [violation.product_id for violation in violations["ledger-stock"]]
    assert ("auditing", 18, 18) == shown[-1]


async def test_alerts_that_retention_may_have_thinned_out_are_not_judged(connection: asyncpg.Connection) -> None:
    """Old outbox rows are pruned in any order, so a gap among them is no violation."""
    await connection.execute(
        "UPDATE outbox SET created_at = now() - interval '2 days';"
        "DELETE FROM outbox WHERE position = (SELECT max(position) FROM outbox WHERE aggregateid = 'bread')"
    )
    assert {} == _violations(await _audit(connection))


async def test_the_audit_sees_one_moment(connection: asyncpg.Connection, postgres: PostgresServer) -> None:
    """Changes made while the audit runs are left to the next one."""
    database = await connection.fetchval("SELECT current_database()")

    def interfere(_: str, done: int, __: int) -> None:
        if done == 1:
            postgres.sql("UPDATE orders SET status = 'expired' WHERE order_id = 'reserved'", database=database)

    assert {} == _violations(await audit(connection, _window(), interfere))
    assert {"holds", "order-status"} == set(_violations(await _audit(connection)))


# --- the command --------------------------------------------------------------------------------


async def test_the_command_says_ok(connection: asyncpg.Connection, run: Run) -> None:
    """`inventory audit` shows every check and ends with the line that scripts rely on, exit code 0."""
    assert connection is not None
    result = await run("audit")
    assert 0 == result.exit_code
    assert [*RULES] == [line.split()[0] for line in result.stdout.splitlines()[1:-1]]
    assert "audit: ok" == result.stdout.splitlines()[-1]


async def test_the_command_names_what_is_wrong(connection: asyncpg.Connection, run: Run) -> None:
    """Each violation is a line with its row and numbers; the last line counts them, exit code 1."""
    await connection.execute("UPDATE inventory SET reserved = reserved + 2 WHERE product_id = 'bread'")
    result = await run("audit")
    assert 1 == result.exit_code
    assert "audit: 2 violations" == result.stdout.splitlines()[-1]
    line = next(line for line in result.stdout.splitlines() if line.startswith("holds: "))
    assert "holds: product bread: reserved=5 held=3" == line


async def test_the_command_speaks_json(connection: asyncpg.Connection, run: Run) -> None:
    """A script gets the count, every check and the examples; the exit code is the same."""
    await connection.execute("UPDATE orders SET paid = false WHERE order_id = 'deducted'")
    result = await run("audit", "--json")
    answer = json.loads(result.stdout)
    found = next(check for check in answer["checks"] if check["name"] == "order-status")
    assert (1, 1, "deducted") == (result.exit_code, answer["violations"], found["examples"][0]["order_id"])


async def test_the_command_needs_tables(blank_database_url: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that was not migrated is one clear line, exit code 2."""
    monkeypatch.setenv("INVENTORY_DATABASE_URL", blank_database_url)
    result = await run("audit")
    assert 2 == result.exit_code
    assert "run `inventory migrate`" in result.stderr


async def _audit(connection: asyncpg.Connection) -> AuditResult:
    return await audit(connection, _window())


def _window() -> datetime:
    return datetime.now(UTC) - timedelta(days=1)


def _violations(result: AuditResult) -> dict[str, list[Violation]]:
    return {check.name: list(check.examples) for check in result.checks if check.violations}
