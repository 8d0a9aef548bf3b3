"""What a batch asks of the database: as many statements for many events as for few, and each an index look-up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from engine.execute import execute
from storage import dead_letters, outbox, retention
from storage.database import Connection, Pool
from storage.save import PartitionProgress
from tests.integration.counting import counted
from tests.integration.shop import POLICY, T0, Shop, adjusted, cart, created, open_shop, paid, product, task
from workers.sweeper import Sweeper


async def test_the_number_of_statements_does_not_depend_on_the_batch(database_url: str) -> None:
    """A batch of 3 and a batch of 300 of each kind of event take the same number of round trips."""
    counts = []
    async with open_shop(database_url) as shop:
        for run, size in enumerate((3, 300)):
            names = [f"{run}-{number:04}" for number in range(size)]
            await shop.apply(*(product(f"p{name}", 5) for name in names))
            await shop.apply(*(created(f"known{name}", {f"p{name}": 1}) for name in names))
            mixed = [
                *(product(f"new{name}", 5) for name in names),
                *(cart(f"c{name}", {f"p{name}": 1}) for name in names),
                *(created(f"o{name}", {f"p{name}": 1}, minutes=1, cart_id=f"c{name}") for name in names),
                *(paid(f"known{name}") for name in names),
                *(paid(f"early{name}") for name in names),
                *(adjusted(f"p{name}", "ADD", 1, f"add{name}") for name in names),
            ]
            async with counted(shop.pool) as statements:
                await shop.run([task(one) for one in mixed])
            counts.append(len(statements))
    assert counts[0] == counts[1]
    assert counts[0] < 25


@pytest.mark.parametrize("rows", [0, 100_000])
async def test_every_hot_statement_is_an_index_look_up(database_url: str, rows: int) -> None:
    """With and without rows and statistics, what the worker runs all the time reads no table whole."""
    async with open_shop(database_url) as shop:
        statements = await _hot_statements(shop)
        if rows:
            await _fill(shop.pool, rows)
            await shop.pool.execute("ANALYZE")
        assert len(statements) > 12
        for statement, arguments in statements:
            plan = await _plan(shop.pool, statement, arguments)
            # The table of partitions is as small as it is, and read whole on purpose.
            assert "Seq Scan" not in plan.replace("Seq Scan on stream_progress", ""), (statement, plan)


async def _hot_statements(shop: Shop) -> list[tuple[str, tuple[Any, ...]]]:
    """Run everything once and return each prepared statement that touched a table, with its arguments."""
    seen: dict[str, tuple[Any, ...]] = {}

    def note(entry: Any) -> None:
        if entry.query.lstrip().upper().startswith(("SELECT", "UPDATE", "INSERT", "DELETE", "(SELECT")):
            seen[entry.query] = tuple(entry.args or ())

    async with shop.pool.acquire() as connection:
        connection._con.add_query_logger(note)  # noqa: SLF001 - the logger must outlive this use of the connection
        single = _OneConnection(connection)
        now = T0

        async def apply(*events: Any) -> None:
            await execute(single, [task(one) for one in events], POLICY, now)

        await apply(product("p", 5), product("q", 5), paid("early"), paid("late"))
        await apply(created("o", {"p": 5}, minutes=-60), cart("c", {"q": 5}, minutes=-60), created("early", {"q": 1}))
        await shop.read_up_to(T0 + timedelta(days=2))
        await apply(created("wants", {"p": 1}), cart("c2", {"q": 4}), cart("c", {"q": 1}, minutes=5), paid("wants"))
        await apply(created("o2", {"p": 1}, minutes=-60), adjusted("p", "ADD", 1))
        await apply(adjusted("p", "ADD", 2))
        await execute(single, [], POLICY, now, progress=[PartitionProgress("order.created", 0, 1, T0)])
        await Sweeper(single, POLICY, 1, lambda: T0, lambda _report: None).run_once()
        await dead_letters.pending_dead_letters(connection, 100, 1000)
        await dead_letters.mark_published(connection, [1], now)
        await outbox.pending(connection, [1, 2, 3], 0, 100, published=[1], now=now)
        await outbox.pending(connection, [1], 0, 100, now=now, without_topics=["t"], without_keys=[("t", "k")])
        await outbox.first_pending(connection, [1, 2, 3], 0, "t", ["k"])
        await outbox.mark_unpublishable(connection, 1, "too large")
        await outbox.mark_published(connection, [1], now)
        await outbox.backlog(connection)
        await retention.prune_inbox(connection, T0 - timedelta(days=9000), 10)
        await retention.prune_outbox(connection, T0 - timedelta(days=9000), 10, 0)
    return [(query, args) for query, args in seen.items() if "pg_advisory" not in query and "set_config" not in query]


class _OneConnection:
    """A pool of one connection, so that one logger sees everything."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        yield self._connection


async def _plan(pool: Pool, statement: str, arguments: tuple[Any, ...]) -> str:
    """Return the generic plan of a statement, as a connection of the worker's would keep it."""
    async with pool.acquire() as connection:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE kept AS {statement}")
        values = f"({', '.join('NULL' for _ in arguments)})" if arguments else ""
        rows = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE kept{values}")
        await connection.execute("DEALLOCATE kept")
    return "\n".join(row[0] for row in rows)


async def _fill(pool: Pool, rows: int) -> None:
    """Put rows into every large table."""
    for table, columns, values in (
        (
            "inventory",
            "product_id, on_hand, reserved, low_stock_threshold, stock_status, alert_status, version, last_sequence",
            "'x' || n, 5, 0, 0, 'ok', 'ok', 1, 0",
        ),
        ("orders", "order_id, status, lines, paid, refused, version", "'x' || n, 'deducted', '{}', true, false, 1"),
        ("carts", "cart_id, status, held, version", "'x' || n, 'converted', '{}', 1"),
        ("inbox", "event_id, source, digest, outcome", "'x' || n, 's', '', 'applied'"),
        (
            "outbox",
            "id, aggregatetype, aggregateid, type, payload, occurred_at, shard, published_at",
            "gen_random_uuid(), 't', 'k', 't', '{}', now(), n % 16, now()",
        ),
    ):
        await pool.execute(f"INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, $1) n", rows)  # noqa: S608 - constants
