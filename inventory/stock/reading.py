"""Reads stock and its history, from PostgreSQL or through the cache."""

from collections.abc import Sequence
from typing import NamedTuple

from engine.reading import StockReader
from storage import stock
from storage.database import Connection
from storage.stock import LedgerRow, StockLevel


class StockList(NamedTuple):
    """The levels found, how many there are without a limit, and the requested products that do not exist."""

    levels: list[StockLevel]
    total: int
    unknown: list[str]


async def read_levels(connection: Connection, product_ids: Sequence[str], limit: int, *, low: bool) -> StockList:
    """Read the named products, or without names all; `low` keeps those at or below their threshold."""
    if product_ids:
        return _requested(product_ids, await stock.read_stock(connection, product_ids), low=low)
    products, not_ok = await stock.count_products(connection)
    if low:
        return StockList(await stock.read_low_stock(connection, limit), not_ok, [])
    return StockList(await stock.read_stock_page(connection, "", limit), products, [])


async def read_cached_levels(reader: StockReader, product_ids: Sequence[str], limit: int) -> StockList:
    """Read the named products through the cache, or without names those at or below their threshold."""
    if product_ids:
        return _requested(product_ids, await reader.stock(product_ids), low=False)
    levels = await reader.low_stock()
    return StockList(levels[:limit], len(levels), [])


async def read_history(
    connection: Connection, product_id: str, limit: int
) -> tuple[list[LedgerRow], StockLevel | None]:
    """Return the product's newest ledger entries and its stock; None for a product that does not exist."""
    levels = await stock.read_stock(connection, [product_id])
    return await stock.read_history(connection, product_id, limit), levels.get(product_id)


def _requested(product_ids: Sequence[str], found: dict[str, StockLevel], *, low: bool) -> StockList:
    requested = list(dict.fromkeys(product_ids))
    levels = [found[product_id] for product_id in requested if product_id in found]
    if low:
        levels = [level for level in levels if level.stock_status != "ok"]
    return StockList(levels, len(levels), [product_id for product_id in requested if product_id not in found])
