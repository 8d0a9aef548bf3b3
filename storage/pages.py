"""Lists in pages, each beginning behind the last row of the one before; nothing here locks or changes anything."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from storage.database import Connection
from storage.stock import LedgerRow, StockLevel, level_of_row

_LEVEL = "product_id, on_hand, reserved, available, low_stock_threshold, stock_status, version, updated_at"
_PRODUCTS = f"SELECT {_LEVEL} FROM inventory WHERE product_id > $1 ORDER BY product_id LIMIT $2"  # noqa: S608 - constants
_OK_PRODUCTS = f"""
SELECT {_LEVEL} FROM inventory WHERE product_id > $1 AND stock_status = 'ok' ORDER BY product_id LIMIT $2
"""  # noqa: S608 - constants
# The condition is the partial index's own, so the healthy products are not read.
_NOT_OK_PRODUCTS = f"""
SELECT {_LEVEL} FROM inventory
WHERE product_id > $1 AND stock_status <> 'ok' AND stock_status = ANY($3::text[]) ORDER BY product_id LIMIT $2
"""  # noqa: S608 - constants

# Newest first along the primary key; the filters only leave rows out.
_LEDGER = """
SELECT sequence, type, quantity, on_hand_before, on_hand_after, reserved_before, reserved_after, reference_type,
    reference_id, operator, reason, event_id, occurred_at, recorded_at
FROM inventory_transactions
WHERE product_id = $1 AND sequence < $2
    AND ($4::text[] IS NULL OR type = ANY($4::text[]))
    AND ($5::text IS NULL OR reference_type = $5)
    AND ($6::text IS NULL OR reference_id = $6)
    AND ($7::text IS NULL OR operator = $7)
    AND ($8::timestamptz IS NULL OR occurred_at >= $8)
    AND ($9::timestamptz IS NULL OR occurred_at < $9)
ORDER BY sequence DESC LIMIT $3
"""

LAST_SEQUENCE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class LedgerFilter:
    """Which entries to list; None leaves nothing out. `since` is included, `until` is not."""

    types: Collection[str] | None = None
    reference_type: str | None = None
    reference_id: str | None = None
    operator: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def products_page(
    connection: Connection, after: str, limit: int, statuses: Collection[str] | None = None
) -> list[StockLevel]:
    """Return at most `limit` products in the order of their ids, from behind `after` ("" is the beginning).

    `statuses` are ok, or any of low and out; None takes all.
    """
    if statuses is None:
        rows = await connection.fetch(_PRODUCTS, after, limit)
    elif set(statuses) == {"ok"}:
        rows = await connection.fetch(_OK_PRODUCTS, after, limit)
    else:
        rows = await connection.fetch(_NOT_OK_PRODUCTS, after, limit, list(statuses))
    return [level_of_row(row) for row in rows]


async def ledger_page(
    connection: Connection, product_id: str, before: int, limit: int, wanted: LedgerFilter
) -> list[LedgerRow]:
    """Return at most `limit` entries of the product below the sequence `before`, the newest first."""
    rows = await connection.fetch(
        _LEDGER,
        product_id,
        before,
        limit,
        None if wanted.types is None else list(wanted.types),
        wanted.reference_type,
        wanted.reference_id,
        wanted.operator,
        wanted.since,
        wanted.until,
    )
    return [LedgerRow(*row) for row in rows]
