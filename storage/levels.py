"""Levels that changed and are not published yet: marked by the database, read by the publisher of `inventory.levels`.

Triggers on `inventory` mark the products of each statement in `level_changes`, in the transaction that changes them. So
a mark exists exactly where a change was committed, whoever made it. A mark names products, not values: the publisher
reads the newest level of each. It deletes a mark only after Kafka acknowledged those levels.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from storage.database import Connection

# Held by the one process that publishes levels, for as long as its session lives.
_LOCK = 0x1A7E03
# How many marks may pile up before they are merged; a mark of a merged set names this many products.
MERGE_ABOVE = 10_000
PRODUCTS_PER_MARK = 1_000

_TRY = f"SELECT pg_try_advisory_lock({_LOCK}, 0)"
_UNPUBLISHED = "SELECT position, product_ids FROM level_changes ORDER BY position LIMIT $1"
_PUBLISHED = "DELETE FROM level_changes WHERE position = ANY($1::bigint[])"
_OLDEST = "SELECT min(created_at) FROM level_changes"
_MARK_PAGE = """
WITH page AS (SELECT product_id FROM inventory WHERE product_id > $1 ORDER BY product_id LIMIT $2)
INSERT INTO level_changes (product_ids) SELECT array_agg(product_id ORDER BY product_id) FROM page HAVING count(*) > 0
RETURNING product_ids[cardinality(product_ids)], cardinality(product_ids), created_at
"""
_REMAINING = "SELECT coalesce(sum(cardinality(product_ids)), 0) FROM level_changes WHERE created_at <= $1"
_COUNT = "SELECT count(*) FROM (SELECT FROM level_changes LIMIT $1) marks"
_MERGE = """
WITH gone AS (
    DELETE FROM level_changes WHERE position IN (SELECT position FROM level_changes ORDER BY position LIMIT $1)
    RETURNING product_ids, created_at
), numbered AS (
    SELECT product_id, (row_number() OVER (ORDER BY product_id) - 1) / $2 AS chunk
    FROM (SELECT DISTINCT unnest(product_ids) AS product_id FROM gone) products
), merged AS (
    INSERT INTO level_changes (product_ids, created_at)
    SELECT array_agg(product_id), (SELECT min(created_at) FROM gone) FROM numbered GROUP BY chunk RETURNING position
)
SELECT (SELECT count(*) FROM gone) > (SELECT count(*) FROM merged)
"""


class Mark(NamedTuple):
    """Products that one statement changed."""

    position: int
    product_ids: list[str]


class MarkedPage(NamedTuple):
    """A page of products that was marked: the last id, how many products, and the time of the mark."""

    last_id: str
    products: int
    marked_at: datetime


async def become_publisher(connection: Connection) -> bool:
    """Try to become the only publisher of levels, without waiting; say whether that succeeded."""
    taken: bool = await connection.fetchval(_TRY)
    return taken


async def unpublished(connection: Connection, limit: int) -> list[Mark]:
    """Return the oldest marks, at most `limit`."""
    return [Mark(*row) for row in await connection.fetch(_UNPUBLISHED, limit)]


async def delete_published(connection: Connection, positions: Sequence[int]) -> None:
    """Delete marks whose products' levels Kafka has acknowledged."""
    await connection.execute(_PUBLISHED, positions)


async def oldest_unpublished(connection: Connection) -> datetime | None:
    """Return when the oldest change that is not published yet was made."""
    oldest: datetime | None = await connection.fetchval(_OLDEST)
    return oldest


async def mark_page(connection: Connection, after: str, limit: int = PRODUCTS_PER_MARK) -> MarkedPage | None:
    """Mark the next products in the order of their ids, after the id `after`; None where there are no more."""
    row = await connection.fetchrow(_MARK_PAGE, after, limit)
    return None if row is None else MarkedPage(*row)


async def count_remaining(connection: Connection, marked_at: datetime) -> int:
    """Return how many products in marks made up to `marked_at` are not published yet."""
    remaining: int = await connection.fetchval(_REMAINING, marked_at)
    return remaining


async def merge_marks(connection: Connection, above: int = MERGE_ABOVE) -> bool:
    """Where more than `above` marks wait, replace the oldest ones by fewer that name each product once; say whether.

    So a database without a publisher stores little more than a mark for each product. Safe beside a publisher: the
    merged marks are new rows, which it has not read.
    """
    if await connection.fetchval(_COUNT, above + 1) <= above:
        return False
    fewer: bool = await connection.fetchval(_MERGE, above, PRODUCTS_PER_MARK)
    return fewer
