"""What an event costs the database, in counts: a batch's statements, an event's rows, a row's indexes.

Speed itself is for `make bench`; here a change that makes the worker write or ask more turns red, on any machine.
Where it is meant, the number here changes with it, and the reason stands in the commit.
"""

from datetime import UTC, datetime

import pytest

from engine.execute import execute
from storage.save import PartitionProgress
from tests.integration.counting import Written, counted, rows_written
from tests.integration.shop import POLICY, Published, Shop, cancelled, cart, created, open_shop, paid, product, task

ORDERS = 40
LINES = 3
PRODUCTS = 10
PROGRESS = [PartitionProgress("order.created", number, 1, datetime(2026, 3, 1, tzinfo=UTC)) for number in range(8)]


async def test_a_batch_of_the_life_cycle_has_so_many_statements(shop: Shop) -> None:
    """Each table is read once and written once, whatever the number of events."""
    await shop.apply(*_stock())
    await shop.apply(*_placed(range(ORDERS)))
    batch = [task(one) for one in (*_placed(range(ORDERS, 2 * ORDERS)), *_ended(range(ORDERS)))]
    async with counted(shop.pool) as statements:
        await execute(shop.pool, batch, POLICY, datetime.now(UTC), progress=PROGRESS)
    assert {
        "BEGIN",
        "SELECT inbox",
        "SELECT orders",
        "SELECT inventory",
        "UPDATE inventory",
        "UPDATE orders",
        "COPY orders",
        "COPY inventory_transactions",
        "COPY inbox",
        "COPY outbox",
        "INSERT stream_progress",
        "COMMIT",
    } == {_in_short(statement) for statement in statements}
    assert 12 == len(statements), statements


async def test_a_batch_of_carts_has_so_many_statements(shop: Shop) -> None:
    """Carts that change are read and written once; nothing is published about one that got what it asked for."""
    await shop.apply(*_stock())
    await shop.apply(*(cart(f"c{number}", _lines(number)) for number in range(ORDERS)))
    batch = [task(cart(f"c{number}", _lines(number + 1), 1)) for number in range(2 * ORDERS)]
    async with counted(shop.pool) as statements:
        await shop.run(batch)
    assert {
        "BEGIN",
        "SELECT inbox",
        "SELECT carts",
        "SELECT inventory",
        "UPDATE inventory",
        "UPDATE carts",
        "COPY carts",
        "COPY inventory_transactions",
        "COPY inbox",
        "COMMIT",
    } == {_in_short(statement) for statement in statements}
    assert 10 == len(statements), statements


async def test_an_event_has_so_many_rows(database_url: str) -> None:
    """An event has a row in inbox and outbox each, a moved line an entry; a batch has each product and a mark once."""
    async with open_shop(database_url) as shop:
        await shop.apply(*_stock())
        before = await rows_written(shop.pool)
        await shop.apply(*_placed(range(ORDERS)))
        between = await rows_written(shop.pool)
        await shop.apply(*_ended(range(ORDERS)))
        after = await rows_written(shop.pool)
    entries = (ORDERS * LINES, 0, 0)
    rows = {"inbox": (ORDERS, 0, 0), "outbox": (ORDERS, 0, 0), "inventory_transactions": entries}
    rows["level_changes"] = (1, 0, 0)
    assert rows | {"inventory": (0, PRODUCTS, 0), "orders": (ORDERS, 0, 0)} == _difference(before, between)
    assert rows | {"inventory": (0, PRODUCTS, 0), "orders": (0, ORDERS, 0)} == _difference(between, after)


@pytest.mark.parametrize(
    ("table", "indexes"),
    [("inventory", 2), ("inventory_transactions", 1), ("orders", 2), ("carts", 2), ("inbox", 2), ("outbox", 2)],
)
async def test_a_row_has_so_many_indexes(shop: Shop, table: str, indexes: int) -> None:
    """Each is written with every row."""
    found = await shop.rows(f"SELECT indexname FROM pg_indexes WHERE tablename = '{table}'")  # noqa: S608 - constants
    assert indexes == len(found), found


def _stock() -> list[Published]:
    return [product(f"p{number}", 1000) for number in range(PRODUCTS)]


def _lines(number: int) -> dict[str, int]:
    return {f"p{(number + step) % PRODUCTS}": 1 + step for step in range(LINES)}


def _placed(numbers: range) -> list[Published]:
    return [created(f"o{number}", _lines(number)) for number in numbers]


def _ended(numbers: range) -> list[Published]:
    return [cancelled(f"o{number}") if number % 4 == 0 else paid(f"o{number}") for number in numbers]


def _in_short(statement: str) -> str:
    """Return the verb of a statement and the table that it is about."""
    words = statement.replace("(", " ").rstrip(";").split()
    verb = words[0]
    if verb == "SELECT":
        return "SELECT inbox" if "JOIN inbox" in statement else f"SELECT {words[words.index('FROM') + 1]}"
    return " ".join((verb, words[2] if verb == "INSERT" else words[1])) if len(words) > 1 else verb


def _difference(before: Written, after: Written) -> Written:
    pairs = {table: (before.get(table, (0, 0, 0)), counts) for table, counts in after.items()}
    changed = {table: tuple(b - a for a, b in zip(*pair, strict=True)) for table, pair in pairs.items()}
    return {table: (counts[0], counts[1], counts[2]) for table, counts in changed.items() if any(counts)}
