"""Save: one statement a table, whatever the batch's size.

New rows are inserted with COPY, changed ones with UPDATE from arrays. Rows are sorted by key, so that two workers that
insert the same new rows wait for each other in one direction only and cannot deadlock.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import orjson

from domain.lines import Line
from domain.model import Cart, Disposition, Fact, LedgerEntry, Order, Product, Reason, ResolvedFact
from storage.database import Connection
from storage.load import EventKey

_UPDATE_PRODUCTS = """
UPDATE inventory SET on_hand = u.on_hand, reserved = u.reserved,
    low_stock_threshold = u.threshold, stock_status = u.stock_status,
    alert_status = u.alert_status, version = u.version, last_sequence = u.last_sequence,
    updated_at = now()
FROM unnest($1::text[], $2::text::bigint[], $3::text::bigint[], $4::text::bigint[], $5::text[],
    $6::text[], $7::text::bigint[], $8::text::bigint[])
    AS u (product_id, on_hand, reserved, threshold, stock_status, alert_status, version,
        last_sequence)
WHERE inventory.product_id = u.product_id
"""
_PRODUCT_COLUMNS = (
    "product_id",
    "on_hand",
    "reserved",
    "low_stock_threshold",
    "stock_status",
    "alert_status",
    "version",
    "last_sequence",
)

_UPDATE_ORDERS = """
UPDATE orders SET status = u.status, user_id = u.user_id, cart_id = u.cart_id,
    lines = u.lines::json, paid = u.paid, refused = u.refused, waiting = u.waiting::json,
    seen = u.seen::json, expires_at = u.expires_at, version = u.version, updated_at = now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],
    $6::text::bool[], $7::text::bool[], $8::text[], $9::text[], $10::text::timestamptz[],
    $11::text::bigint[])
    AS u (order_id, status, user_id, cart_id, lines, paid, refused, waiting, seen, expires_at,
        version)
WHERE orders.order_id = u.order_id
"""
_ORDER_COLUMNS = (
    "order_id",
    "status",
    "user_id",
    "cart_id",
    "lines",
    "paid",
    "refused",
    "waiting",
    "seen",
    "expires_at",
    "version",
)

_UPDATE_CARTS = """
UPDATE carts SET status = u.status, user_id = u.user_id, held = u.held::json,
    snapshot_version = u.snapshot_version, as_of = u.as_of, converted_at = u.converted_at,
    expires_at = u.expires_at, version = u.version, updated_at = now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text::bigint[],
    $6::text::timestamptz[], $7::text::timestamptz[], $8::text::timestamptz[], $9::text::bigint[])
    AS u (cart_id, status, user_id, held, snapshot_version, as_of, converted_at, expires_at,
        version)
WHERE carts.cart_id = u.cart_id
"""
_CART_COLUMNS = (
    "cart_id",
    "status",
    "user_id",
    "held",
    "snapshot_version",
    "as_of",
    "converted_at",
    "expires_at",
    "version",
)

# The columns above that are sent as arrays of text; see `_array`.
_TEXTS = frozenset(
    (
        "product_id",
        "order_id",
        "cart_id",
        "user_id",
        "status",
        "stock_status",
        "alert_status",
        "lines",
        "held",
        "waiting",
        "seen",
    )
)

_LEDGER_COLUMNS = (
    "product_id",
    "sequence",
    "type",
    "quantity",
    "on_hand_before",
    "on_hand_after",
    "reserved_before",
    "reserved_after",
    "reference_type",
    "reference_id",
    "operator",
    "reason",
    "event_id",
    "occurred_at",
)

_INBOX_COLUMNS = ("event_id", "source", "digest", "outcome", "reason")

_SETTLE = """
UPDATE inbox SET outcome = u.outcome, reason = u.reason
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS u (event_id, source, outcome, reason)
WHERE inbox.event_id = u.event_id AND inbox.source = u.source
"""

_FORGET = """
DELETE FROM inbox USING unnest($1::text[], $2::text[]) AS u (event_id, source)
WHERE inbox.event_id = u.event_id AND inbox.source = u.source
"""

_OUTBOX_COLUMNS = (
    "id",
    "aggregatetype",
    "aggregateid",
    "type",
    "payload",
    "headers",
    "occurred_at",
    "shard",
)

_PROGRESS = """
INSERT INTO stream_progress AS s (topic, partition, next_offset, watermark)
SELECT u.topic, u.partition, u.next_offset, least(u.watermark, clock_timestamp())
FROM unnest($1::text[], $2::int[], $3::bigint[], $4::timestamptz[])
    AS u (topic, partition, next_offset, watermark)
ON CONFLICT (topic, partition) DO UPDATE SET
    next_offset = greatest(s.next_offset, excluded.next_offset),
    watermark = CASE WHEN s.watermark > clock_timestamp() THEN excluded.watermark
        ELSE greatest(s.watermark, excluded.watermark) END,
    updated_at = CASE excluded.next_offset WHEN 0 THEN s.updated_at ELSE now() END
"""


class InboxRow(NamedTuple):
    """An event that was received, the digest of its content, and what became of it."""

    event_id: str
    source: str
    digest: bytes
    outcome: Disposition
    reason: Reason | None


class OutboxRow(NamedTuple):
    """An outgoing event: id (a UUID's text), topic, key, type, body (JSON text), extra headers (JSON text)."""

    id: str
    topic: str
    key: str
    type: str
    payload: str
    headers: str | None
    occurred_at: datetime
    shard: int


class PartitionProgress(NamedTuple):
    """How far a partition has been read: the next offset, and the event time."""

    topic: str
    partition: int
    next_offset: int
    watermark: datetime


async def save_products(connection: Connection, products: Iterable[Product], new: Collection[str]) -> None:
    """Write the products; those whose ids are in `new` are inserted."""
    rows = sorted(
        (
            product.product_id,
            product.on_hand,
            product.reserved,
            product.threshold,
            product.status.value,
            product.last_alert_status.value,
            product.version,
            product.sequence,
        )
        for product in products
    )
    await _insert_and_update(connection, "inventory", _PRODUCT_COLUMNS, _UPDATE_PRODUCTS, rows, new)


async def save_orders(connection: Connection, orders: Iterable[Order], new: Collection[str]) -> None:
    """Write the orders; those whose ids are in `new` are inserted."""
    rows = [_order_row(order) for order in sorted(orders, key=lambda order: order.order_id)]
    await _insert_and_update(connection, "orders", _ORDER_COLUMNS, _UPDATE_ORDERS, rows, new)


async def save_carts(connection: Connection, carts: Iterable[Cart], new: Collection[str]) -> None:
    """Write the carts; those whose ids are in `new` are inserted."""
    rows = [_cart_row(cart) for cart in sorted(carts, key=lambda cart: cart.cart_id)]
    await _insert_and_update(connection, "carts", _CART_COLUMNS, _UPDATE_CARTS, rows, new)


async def append_ledger(connection: Connection, entries: Sequence[LedgerEntry]) -> None:
    """Append the entries to the ledger."""
    if not entries:
        return
    await connection.copy_records_to_table(
        "inventory_transactions",
        columns=_LEDGER_COLUMNS,
        # In the order of the primary key, so that each page of its index is visited once.
        records=sorted((*entry[:12], entry.cause.event_id, entry.cause.occurred_at) for entry in entries),
    )


async def append_inbox(connection: Connection, rows: Iterable[InboxRow]) -> None:
    """Record the events as received; raises UniqueViolationError when another worker has received one of them."""
    records = sorted(rows)
    if records:
        await connection.copy_records_to_table("inbox", columns=_INBOX_COLUMNS, records=records)


async def resolve_in_inbox(connection: Connection, resolved: Mapping[EventKey, ResolvedFact]) -> None:
    """Write what became of events whose facts had waited."""
    if resolved:
        await connection.execute(
            _SETTLE,
            [key[1] for key in resolved],
            [key[0] for key in resolved],
            [fact.disposition for fact in resolved.values()],
            [fact.reason for fact in resolved.values()],
        )


async def forget_events(connection: Connection, keys: Collection[EventKey]) -> None:
    """Delete events from the inbox, so that a redrive of their dead letters is not suppressed as a duplicate."""
    if keys:
        await connection.execute(_FORGET, [key[1] for key in keys], [key[0] for key in keys])


async def append_outbox(connection: Connection, rows: Sequence[OutboxRow]) -> None:
    """Append outgoing events to the outbox, in order."""
    if rows:
        await connection.copy_records_to_table("outbox", columns=_OUTBOX_COLUMNS, records=rows)


async def save_progress(connection: Connection, progress: Sequence[PartitionProgress]) -> None:
    """Record how far partitions have been read; neither offset nor watermark decreases.

    No watermark is ahead of the database's clock: a later one is cut to it. A stored one that is ahead, because the
    clock was set back or another server took over, is replaced.
    """
    if progress:
        furthest: dict[tuple[str, int], PartitionProgress] = {}
        for row in sorted(progress):
            before = furthest.get(row[:2], row)
            furthest[row[:2]] = row._replace(watermark=max(row.watermark, before.watermark))
        rows = list(furthest.values())
        await connection.execute(
            _PROGRESS,
            [row.topic for row in rows],
            [row.partition for row in rows],
            [row.next_offset for row in rows],
            [row.watermark for row in rows],
        )


async def _insert_and_update(
    connection: Connection,
    table: str,
    columns: tuple[str, ...],
    update: str,
    rows: Sequence[tuple[object, ...]],
    new: Collection[str],
) -> None:
    inserted = [row for row in rows if row[0] in new]
    updated = [row for row in rows if row[0] not in new]
    if updated:
        await connection.execute(update, *map(_array, zip(*updated, strict=True), columns))
    if inserted:
        await connection.copy_records_to_table(table, columns=columns, records=inserted)


def _array(column: Sequence[object], name: str) -> list[object] | str:
    """Return a column in the form that asyncpg encodes fastest: texts as a list, anything else as an array literal.

    asyncpg checks for each element that is not a str whether it is itself an array, which costs more than the rest of
    its encoding.
    """
    if name in _TEXTS:
        return list(column)
    return "{" + ",".join(["NULL" if value is None else str(value) for value in column]) + "}"


def _order_row(order: Order) -> tuple[object, ...]:
    return (
        order.order_id,
        order.status.value,
        order.user_id,
        order.cart_id,
        orjson.dumps(order.lines, default=_plain).decode(),
        order.paid,
        order.refused,
        _json_or_none([_fact(fact) for fact in order.waiting]),
        orjson.dumps(order.seen).decode() if order.seen else None,
        order.expires_at,
        order.version,
    )


def _cart_row(cart: Cart) -> tuple[object, ...]:
    return (
        cart.cart_id,
        cart.status.value,
        cart.user_id,
        orjson.dumps(cart.held).decode(),
        cart.snapshot_version,
        cart.as_of,
        cart.converted_at,
        cart.expires_at,
        cart.version,
    )


def _fact(fact: Fact) -> dict[str, object]:
    return {
        "kind": fact.kind.value,
        "source": fact.cause.source,
        "event_id": fact.cause.event_id,
        "occurred_at": fact.cause.occurred_at.isoformat(),
        "traceparent": fact.cause.traceparent,
        "lines": fact.lines,
        "business_id": fact.business_id,
        "restock": fact.restock,
        "returned": fact.returned,
    }


def _json_or_none(values: list[object] | list[str] | list[dict[str, object]]) -> str | None:
    return orjson.dumps(values).decode() if values else None


def _plain(value: object) -> object:
    if isinstance(value, Line):
        return tuple(value)
    message = f"{type(value).__name__} has no JSON form here"
    raise TypeError(message)
