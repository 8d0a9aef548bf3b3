"""A shop for tests: events as producers send them, applied by `execute` to a real database, and a look at the tables.

Two looks at equal shops are equal: what differs by nature (times of writing, positions) is left out.
"""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any, TypeVar

from dev.records import ConsumedRecord
from domain.model import Policy
from engine.execute import execute
from engine.tasks import BatchResult, EventTask, Task
from storage.database import Pool, open_pool
from workers.consuming.records import DecodedRecord, read_records

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
POLICY = Policy()

Published = dict[str, Any]
One = TypeVar("One")

_offsets = count(1)


def event(topic: str, event_id: str, minutes: float = 0, **data: Any) -> Published:
    """Return an event as it is published: `minutes` after noon, from the source `shop`."""
    at = T0 + timedelta(minutes=minutes)
    return {"topic": topic, "id": event_id, "source": "shop", "occurred_at": at, "data": data}


def ago(**time: float) -> Published:
    """Return what dates an event so long before now; merge it into the event with `|`."""
    return {"occurred_at": datetime.now(UTC) - timedelta(**time)}


def items(**lines: int) -> list[dict[str, Any]]:
    """Return lines as an event carries them."""
    return [{"product_id": product_id, "quantity": quantity} for product_id, quantity in lines.items()]


def product(product_id: str, stock: int, threshold: int = 0) -> Published:
    """A product with its first stock, long before anything else happens."""
    data = {"product_id": product_id, "initial_quantity": stock, "low_stock_threshold": threshold}
    return event("product.created", f"new-{product_id}", -600, **data)


def created(order_id: str, lines: Mapping[str, int], minutes: float = 0, **data: Any) -> Published:
    """An order is placed."""
    return event("order.created", f"created-{order_id}", minutes, order_id=order_id, items=items(**lines), **data)


def paid(order_id: str, minutes: float = 1, event_id: str | None = None) -> Published:
    """An order is paid."""
    return event("payment.succeeded", event_id or f"paid-{order_id}", minutes, order_id=order_id)


def cancelled(order_id: str, minutes: float = 2, lines: Mapping[str, int] | None = None) -> Published:
    """An order is cancelled, whole or by lines."""
    part = {} if lines is None else {"items": items(**lines)}
    return event("order.cancelled", f"cancelled-{order_id}", minutes, order_id=order_id, **part)


def refunded(order_id: str, lines: Mapping[str, int], minutes: float = 3, **data: Any) -> Published:
    """Pieces of an order are refunded."""
    body = {"order_id": order_id, "refund_id": f"r-{order_id}", "items": items(**lines), **data}
    return event("payment.refunded", f"refunded-{order_id}", minutes, **body)


def cart(cart_id: str, lines: Mapping[str, int], minutes: float = 0, **data: Any) -> Published:
    """A cart is now this."""
    return event("cart.updated", f"cart-{cart_id}-{minutes}", minutes, cart_id=cart_id, items=items(**lines), **data)


def adjusted(product_id: str, operation: str, quantity: int, event_id: str = "adjusted", **data: Any) -> Published:
    """Stock is corrected by hand."""
    body = {"product_id": product_id, "operation": operation, "quantity": quantity, "reason": "count", **data}
    return event("inventory.adjustment", event_id, 0, **body)


def body(published: Published) -> bytes:
    """Return the event as plain JSON."""
    head = {"event_id": published["id"], "source": published["source"], "event_type": published["topic"]}
    return json.dumps(published["data"] | head | {"occurred_at": published["occurred_at"].isoformat()}).encode()


def record(published: Published, headers: Sequence[tuple[str, bytes | None]] = ()) -> ConsumedRecord:
    """Return the Kafka record that brings an event; each has an offset of its own."""
    at = round(published["occurred_at"].timestamp() * 1000)
    return ConsumedRecord(published["topic"], 0, next(_offsets), at, b"key", body(published), headers)


def task(published: Published, headers: Sequence[tuple[str, bytes | None]] = ()) -> EventTask:
    """Return the task that the consumer makes of a good event."""
    (read,) = read_records([record(published, headers)], "", max(T0, published["occurred_at"]))
    assert isinstance(read, DecodedRecord), read
    return EventTask(read.command, read.event.digest, read.record, read.event.type)


@dataclass
class Shop:
    """A database, and the events that are applied to it."""

    pool: Pool
    policy: Policy = POLICY

    async def apply(self, *events: Published, now: datetime = T0) -> list[str]:
        """Apply the events in one batch; returns what became of each."""
        return [verdict.disposition for verdict in (await self.run([task(one) for one in events], now)).verdicts]

    async def run(self, tasks: Sequence[Task], now: datetime = T0, *, skip_locked: bool = False) -> BatchResult:
        """Apply tasks in one batch."""
        return await execute(self.pool, tasks, self.policy, now, skip_locked=skip_locked)

    async def read_up_to(self, moment: datetime) -> None:
        """Set the stream's clock: there is one partition, and it was read up to `moment`."""
        await self.pool.execute(
            "INSERT INTO stream_progress (topic, partition, next_offset, watermark) VALUES ('order.created', 0, 0, $1)"
            " ON CONFLICT (topic, partition) DO UPDATE SET watermark = excluded.watermark",
            moment,
        )

    async def stock(self, product_id: str) -> tuple[int, int]:
        """Return (on hand, reserved)."""
        row = await self.pool.fetchrow("SELECT on_hand, reserved FROM inventory WHERE product_id = $1", product_id)
        return (row["on_hand"], row["reserved"])

    async def status(self, order_id: str) -> str | None:
        """Return an order's status."""
        status: str | None = await self.pool.fetchval("SELECT status FROM orders WHERE order_id = $1", order_id)
        return status

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return what a query finds."""
        return [tuple(row) for row in await self.pool.fetch(statement)]

    async def outgoing(self) -> list[tuple[str, str]]:
        """Return (type, key) of every outgoing event, in the order of writing."""
        return [(row[0], row[1]) for row in await self.rows("SELECT type, aggregateid FROM outbox ORDER BY position")]


_PICTURE = {
    "inventory": "SELECT product_id, on_hand, reserved, low_stock_threshold, stock_status, alert_status, version,"
    " last_sequence FROM inventory ORDER BY 1",
    "ledger": "SELECT product_id, sequence, type, quantity, on_hand_before, on_hand_after, reserved_before,"
    " reserved_after, reference_type, reference_id, operator, reason, event_id, occurred_at"
    " FROM inventory_transactions ORDER BY 1, 2",
    "orders": "SELECT order_id, status, user_id, cart_id, lines::text, paid, refused, waiting::text, seen::text,"
    " expires_at, version FROM orders ORDER BY 1",
    "carts": "SELECT cart_id, status, user_id, held::text, snapshot_version, as_of, converted_at, expires_at, version"
    " FROM carts ORDER BY 1",
    "inbox": "SELECT event_id, source, digest, outcome, reason FROM inbox ORDER BY 1, 2",
    "answers": "SELECT event_id, source, status, headers::text, body FROM http_answers ORDER BY 1, 2",
    "parked": "SELECT source, event_id, order_id, event_type FROM parked_events ORDER BY 1, 2",
    "dead letters": "SELECT topic, reason, event_id FROM dead_letters ORDER BY 1, 2, 3",
    # In the order of writing, but only per key: no other order is promised.
    "outgoing": "SELECT aggregateid, row_number() OVER (PARTITION BY aggregateid ORDER BY position), id, aggregatetype,"
    " type, payload, headers, occurred_at, shard FROM outbox ORDER BY 1, 2",
}


async def picture(pool: Pool) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that a shop has, comparable with another's."""
    return {name: [tuple(row) for row in await pool.fetch(query)] for name, query in _PICTURE.items()}


@asynccontextmanager
async def open_shop(url: str, size: int = 5, policy: Policy = POLICY) -> AsyncIterator[Shop]:
    """Open a shop on a migrated database. It has one partition of which nothing was read, so nothing is due."""
    pool = await open_pool(url, size)
    try:
        shop = Shop(pool, policy)
        await shop.read_up_to(EPOCH)
        yield shop
    finally:
        await pool.close()


async def problems(pool: Pool) -> list[str]:
    """Return every product whose ledger does not lead to its stock without a gap; asked in SQL, not of the code."""
    rows = await pool.fetch("""
        SELECT i.product_id FROM inventory i LEFT JOIN (
            SELECT product_id, count(*) AS entries, max(sequence) AS last,
                (array_agg(on_hand_after ORDER BY sequence DESC))[1] AS on_hand,
                (array_agg(reserved_after ORDER BY sequence DESC))[1] AS reserved,
                sum(on_hand_after - on_hand_before) AS moved, sum(reserved_after - reserved_before) AS held
            FROM inventory_transactions GROUP BY product_id
        ) l USING (product_id)
        WHERE (coalesce(l.on_hand, 0), coalesce(l.reserved, 0), coalesce(l.entries, 0))
                IS DISTINCT FROM (i.on_hand, i.reserved, i.last_sequence)
            OR coalesce(l.last, 0) <> i.last_sequence
            OR (coalesce(l.moved, 0), coalesce(l.held, 0)) IS DISTINCT FROM (i.on_hand, i.reserved)
        UNION ALL
        SELECT product_id FROM (
            SELECT product_id, on_hand_before, reserved_before,
                lag(on_hand_after, 1, 0::bigint) OVER w AS on_hand, lag(reserved_after, 1, 0::bigint) OVER w AS reserved
            FROM inventory_transactions WINDOW w AS (PARTITION BY product_id ORDER BY sequence)
        ) chain WHERE (on_hand_before, reserved_before) IS DISTINCT FROM (on_hand, reserved)
    """)
    return [row[0] for row in rows]


def batches(events: Iterable[One], cuts: Iterable[int]) -> list[list[One]]:
    """Cut a stream at the positions given."""
    stream = list(events)
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in pairwise(edges)]
