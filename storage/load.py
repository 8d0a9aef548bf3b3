"""Lock and load: one statement a table, whatever the batch's size.

Lock order: orders, carts, products, and by key within each table. Every transaction that changes stock keeps it, so
they can wait for each other but not deadlock.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any

import orjson

from domain.due import DueHold
from domain.lines import Line
from domain.model import (
    Cart,
    CartStatus,
    Cause,
    Fact,
    FactKind,
    Order,
    OrderStatus,
    Product,
    StockStatus,
)
from storage.database import Connection

EventKey = tuple[str, str]
"""The identity of an event: (source, event_id)."""


_KNOWN_EVENTS = """
SELECT i.source, i.event_id, i.digest
FROM unnest($1::text[], $2::text[]) AS k (event_id, source)
JOIN inbox i ON i.event_id = k.event_id AND i.source = k.source
"""

_OUTCOME = "SELECT outcome, reason FROM inbox WHERE event_id = $1 AND source = $2"

_ORDERS = """
SELECT order_id, status, user_id, cart_id, lines, paid, refused, waiting, seen, expires_at, version
FROM orders WHERE order_id = ANY($1::text[]) ORDER BY order_id FOR NO KEY UPDATE
"""

_CARTS = """
SELECT cart_id, status, user_id, held, snapshot_version, as_of, converted_at, expires_at, version
FROM carts WHERE cart_id = ANY($1::text[]) ORDER BY cart_id FOR NO KEY UPDATE
"""

_ANY_CART = "SELECT cart_id FROM carts WHERE cart_id = ANY($1::text[]) LIMIT 1"

_PRODUCTS = """
SELECT product_id, on_hand, reserved, low_stock_threshold, alert_status, version, last_sequence
FROM inventory WHERE product_id = ANY($1::text[]) ORDER BY product_id FOR NO KEY UPDATE
"""

# LEAST ignores NULL: without a partition, the database's clock stands alone.
_LOW_WATERMARK = "SELECT least(min(watermark), clock_timestamp()) FROM stream_progress"

# A partition that this transaction registers has nothing read before it.
_LOW_WATERMARK_WITH_NEW = """
SELECT least(min(watermark), clock_timestamp()) FROM (
    SELECT watermark FROM stream_progress
    UNION ALL
    SELECT 'epoch' FROM unnest($1::text[], $2::int[]) AS n (topic, partition)
    WHERE NOT EXISTS (
        SELECT FROM stream_progress s WHERE s.topic = n.topic AND s.partition = n.partition)
) AS known
"""

_DUE = """
(SELECT expires_at, 'cart' AS kind, cart_id AS id FROM carts
 WHERE status = 'active' AND expires_at < $1 ORDER BY expires_at, cart_id LIMIT $2)
UNION ALL
(SELECT expires_at, 'order', order_id FROM orders
 WHERE status = 'reserved' AND expires_at < $1 ORDER BY expires_at, order_id LIMIT $2)
"""

_DUE_ON_PRODUCTS = """
(SELECT expires_at, 'order' AS kind, order_id AS id FROM orders
 WHERE status = 'reserved' AND expires_at < $1
    AND EXISTS (SELECT FROM json_object_keys(lines) k WHERE k = ANY($2::text[]))
 ORDER BY expires_at, order_id LIMIT $3)
UNION ALL
(SELECT expires_at, 'cart', cart_id FROM carts
 WHERE status = 'active' AND expires_at < $1
    AND EXISTS (SELECT FROM json_object_keys(held) k WHERE k = ANY($2::text[]))
 ORDER BY expires_at, cart_id LIMIT $3)
"""

_STATUS = {status.value: status for status in OrderStatus}
_CART_STATUS = {status.value: status for status in CartStatus}
_STOCK_STATUS = {status.value: status for status in StockStatus}


async def known_events(connection: Connection, keys: Collection[EventKey]) -> dict[EventKey, bytes]:
    """Return the digests of those events that are in the inbox."""
    if not keys:
        return {}
    rows = await connection.fetch(_KNOWN_EVENTS, [key[1] for key in keys], [key[0] for key in keys])
    return {(row[0], row[1]): row[2] for row in rows}


async def recorded_outcome(connection: Connection, key: EventKey) -> tuple[str, str | None]:
    """Return what became of an event that is in the inbox, and the reason; raises LookupError for an unknown one."""
    row = await connection.fetchrow(_OUTCOME, key[1], key[0])
    if row is None:
        message = f"the inbox does not know {key}"
        raise LookupError(message)
    return row[0], row[1]


async def lock_orders(
    connection: Connection, order_ids: Iterable[str], *, skip_locked: bool = False
) -> dict[str, Order]:
    """Lock and return the orders that exist; with `skip_locked`, those that nobody else has locked."""
    ids = list(order_ids)
    if not ids:
        return {}
    rows = await connection.fetch(_skipping(_ORDERS, skip_locked=skip_locked), ids)
    return {row[0]: _order(row) for row in rows}


async def lock_carts(connection: Connection, cart_ids: Iterable[str], *, skip_locked: bool = False) -> dict[str, Cart]:
    """Lock and return the carts that exist; with `skip_locked`, those that nobody else has locked."""
    ids = list(cart_ids)
    if not ids:
        return {}
    rows = await connection.fetch(_skipping(_CARTS, skip_locked=skip_locked), ids)
    return {row[0]: _cart(row) for row in rows}


async def any_cart(connection: Connection, cart_ids: Iterable[str]) -> bool:
    """Say whether one of these carts exists, without locking it."""
    return await connection.fetchval(_ANY_CART, list(cart_ids)) is not None


async def lock_products(connection: Connection, product_ids: Iterable[str]) -> dict[str, Product]:
    """Lock and return the products that exist."""
    ids = list(product_ids)
    if not ids:
        return {}
    rows = await connection.fetch(_PRODUCTS, ids)
    return {row[0]: Product(row[0], row[1], row[2], row[3], _STOCK_STATUS[row[4]], row[5], row[6]) for row in rows}


async def clock(connection: Connection) -> datetime:
    """Return the database's clock."""
    value: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return value


async def low_watermark(connection: Connection, partitions: Collection[tuple[str, int]] = ()) -> datetime:
    """Return the event time up to which every partition has been read, at most the database's time of day.

    Where no partition is known, nothing is consumed, and the time of day is the result. `partitions` (topic, number)
    are those that this transaction is about to register: one without a row holds the low watermark at the epoch.
    """
    value: datetime = await (
        connection.fetchval(_LOW_WATERMARK_WITH_NEW, *zip(*partitions, strict=True))
        if partitions
        else connection.fetchval(_LOW_WATERMARK)
    )
    return value


async def due_holds(connection: Connection, until: datetime, limit: int) -> list[DueHold]:
    """Return the oldest `limit` holds that are due at `until`, sorted, without locking them."""
    return sorted(DueHold(*row) for row in await connection.fetch(_DUE, until, limit))[:limit]


async def due_on_products(
    connection: Connection, product_ids: Collection[str], until: datetime, limit: int | None
) -> list[DueHold]:
    """Return the oldest `limit` holds on any of the products that are due at `until`, sorted, without locking them.

    With None as the limit, all of them.
    """
    rows = await connection.fetch(_DUE_ON_PRODUCTS, until, list(product_ids), limit)
    return sorted(DueHold(*row) for row in rows)[:limit]


def _skipping(statement: str, *, skip_locked: bool) -> str:
    return f"{statement} SKIP LOCKED" if skip_locked else statement


def _order(row: Any) -> Order:  # noqa: ANN401 - asyncpg's Record is untyped
    waiting = row[7]
    seen = row[8]
    return Order(
        row[0],
        _STATUS[row[1]],
        row[2],
        row[3],
        {product_id: Line(*counters) for product_id, counters in orjson.loads(row[4]).items()},
        row[5],
        row[6],
        () if waiting is None else tuple(_fact(fact) for fact in orjson.loads(waiting)),
        {} if seen is None else orjson.loads(seen),
        row[9],
        row[10],
    )


def _fact(fact: dict[str, Any]) -> Fact:
    at = datetime.fromisoformat(fact["occurred_at"]).astimezone(UTC)
    return Fact(
        FactKind(fact["kind"]),
        Cause(fact["source"], fact["event_id"], at, fact.get("traceparent")),
        fact["lines"],
        fact["business_id"],
        fact["restock"],
        fact["returned"],
    )


def _cart(row: Any) -> Cart:  # noqa: ANN401 - asyncpg's Record is untyped
    return Cart(
        row[0],
        _CART_STATUS[row[1]],
        row[2],
        orjson.loads(row[3]),
        row[4],
        row[5],
        row[6],
        row[7],
        row[8],
    )
