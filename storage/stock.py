"""Stock and reservations for readers; nothing here locks or changes a row."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from domain.lines import held_of
from domain.model import Cart, CartStatus, Order, OrderStatus, Product, StockStatus
from storage.database import Connection

_COLUMNS = "product_id, on_hand, reserved, available, low_stock_threshold, stock_status, version, updated_at"
_SOME = f"SELECT {_COLUMNS} FROM inventory WHERE product_id = ANY($1::text[]) ORDER BY product_id"  # noqa: S608 - constants
_PAGE = f"SELECT {_COLUMNS} FROM inventory WHERE product_id > $1 ORDER BY product_id LIMIT $2"  # noqa: S608 - constants
_NEWER = f"""
SELECT {_COLUMNS} FROM unnest($1::text[], $2::text::bigint[]) AS known (product_id, known_version)
    JOIN inventory USING (product_id)
WHERE version > known_version
"""  # noqa: S608 - constants
# The condition is that of the partial index, so products with enough stock are not read.
_LOW = f"SELECT {_COLUMNS} FROM inventory WHERE stock_status <> 'ok' ORDER BY product_id LIMIT $1"  # noqa: S608 - constants
_COUNT = "SELECT count(*), count(*) FILTER (WHERE stock_status <> 'ok') FROM inventory"
_HISTORY = """
SELECT sequence, type, quantity, on_hand_before, on_hand_after, reserved_before, reserved_after, reference_type,
    reference_id, operator, reason, event_id, occurred_at, recorded_at
FROM inventory_transactions WHERE product_id = $1 ORDER BY sequence DESC LIMIT $2
"""
_ORDER = "SELECT order_id, user_id, status, lines, expires_at, version FROM orders WHERE order_id = $1"
_CART = "SELECT cart_id, user_id, status, held, expires_at, version FROM carts WHERE cart_id = $1"


class StockLevel(NamedTuple):
    """A product's stock in units; `version` grows with every change.

    `updated_at` is PostgreSQL's time of the last change; None where the row was not read from there.
    """

    product_id: str
    on_hand: int
    reserved: int
    available: int
    low_stock_threshold: int
    stock_status: StockStatus
    version: int
    updated_at: datetime | None = None


class Reservation(NamedTuple):
    """What an order or a cart holds now: units by product. `version` grows with every change."""

    owner_id: str
    user_id: str | None
    status: OrderStatus | CartStatus
    lines: Mapping[str, int]
    expires_at: datetime | None
    version: int


class LedgerRow(NamedTuple):
    """One ledger entry of a product."""

    sequence: int
    type: str
    quantity: int
    on_hand_before: int
    on_hand_after: int
    reserved_before: int
    reserved_after: int
    reference_type: str
    reference_id: str
    operator: str | None
    reason: str | None
    event_id: str
    occurred_at: datetime
    recorded_at: datetime


async def read_stock(connection: Connection, product_ids: Collection[str]) -> dict[str, StockLevel]:
    """Return the stock of the products that exist."""
    if not product_ids:
        return {}
    return {row[0]: level_of_row(row) for row in await connection.fetch(_SOME, list(product_ids))}


async def read_newer(connection: Connection, versions: Mapping[str, int]) -> list[StockLevel]:
    """Return the products whose version is higher than the one given."""
    # The versions as the text of an array: asyncpg encodes it fastest.
    known = "{" + ",".join(map(str, versions.values())) + "}"
    return [level_of_row(row) for row in await connection.fetch(_NEWER, list(versions), known)]


async def read_stock_page(connection: Connection, after: str, limit: int) -> list[StockLevel]:
    """Return at most `limit` products in the order of their ids, after the id `after` ("" for the first page)."""
    return [level_of_row(row) for row in await connection.fetch(_PAGE, after, limit)]


async def read_low_stock(connection: Connection, limit: int) -> list[StockLevel]:
    """Return at most `limit` products that are at or below their threshold, in the order of their ids."""
    return [level_of_row(row) for row in await connection.fetch(_LOW, limit)]


async def count_products(connection: Connection) -> tuple[int, int]:
    """Return how many products there are, and how many of them are low or out."""
    row = await connection.fetchrow(_COUNT)
    return row[0], row[1]


async def read_history(connection: Connection, product_id: str, limit: int) -> list[LedgerRow]:
    """Return the product's newest ledger entries, the newest first."""
    return [LedgerRow(*row) for row in await connection.fetch(_HISTORY, product_id, limit)]


async def read_order(connection: Connection, order_id: str) -> Reservation | None:
    """Return what the order holds, or None for an unknown one."""
    row = await connection.fetchrow(_ORDER, order_id)
    if row is None:
        return None
    status = OrderStatus(row["status"])
    counters = orjson.loads(row["lines"]).items() if status is OrderStatus.RESERVED else ()
    held = {product_id: held_of(line) for product_id, line in counters}
    return Reservation(row["order_id"], row["user_id"], status, _some(held), row["expires_at"], row["version"])


async def read_cart(connection: Connection, cart_id: str) -> Reservation | None:
    """Return what the cart holds, or None for an unknown one."""
    row = await connection.fetchrow(_CART, cart_id)
    if row is None:
        return None
    held = orjson.loads(row["held"])
    status = CartStatus(row["status"])
    return Reservation(row["cart_id"], row["user_id"], status, held, row["expires_at"], row["version"])


def level_of(product: Product) -> StockLevel:
    """Return the stock of a product as the domain has it."""
    on_hand, reserved = product.on_hand, product.reserved
    return StockLevel(
        product.product_id,
        on_hand,
        reserved,
        on_hand - reserved,
        product.threshold,
        product.status,
        product.version,
    )


def reservation_of_order(order: Order) -> Reservation:
    """Return what an order holds as the domain has it."""
    lines = order.lines.items() if order.status is OrderStatus.RESERVED else ()
    held = {product_id: line.held for product_id, line in lines}
    return Reservation(order.order_id, order.user_id, order.status, _some(held), order.expires_at, order.version)


def reservation_of_cart(cart: Cart) -> Reservation:
    """Return what a cart holds as the domain has it."""
    return Reservation(cart.cart_id, cart.user_id, cart.status, cart.held, cart.expires_at, cart.version)


def ordered(levels: Iterable[StockLevel]) -> list[StockLevel]:
    """Return the levels sorted by the bytes of their ids, as PostgreSQL sorts in the collation "C"."""
    return sorted(levels, key=lambda level: level.product_id.encode())


def level_of_row(row: Any) -> StockLevel:  # noqa: ANN401 - asyncpg's Record is untyped
    """Return the level that a row of these columns is."""
    product_id, on_hand, reserved, available, threshold, status, version, updated_at = row
    return StockLevel(product_id, on_hand, reserved, available, threshold, StockStatus(status), version, updated_at)


def _some(held: Mapping[str, int]) -> dict[str, int]:
    return {product_id: quantity for product_id, quantity in held.items() if quantity}
