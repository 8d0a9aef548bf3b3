"""The numbers behind the gauges; each is read through an index."""

from datetime import datetime
from typing import NamedTuple

from storage import levels, outbox
from storage.database import Connection

_COUNTS = """
SELECT (SELECT count(*) FROM parked_events), (SELECT count(*) FROM inventory WHERE stock_status <> 'ok'),
    (SELECT count(*) FROM outbox WHERE published_at IS NULL AND publish_error IS NOT NULL AND discarded_at IS NULL)
"""
_SLOWEST = """
SELECT topic, partition, watermark FROM stream_progress ORDER BY watermark, topic, partition LIMIT 1
"""


class Partition(NamedTuple):
    """How far in event time one partition has been read."""

    topic: str
    partition: int
    watermark: datetime


class Gauges(NamedTuple):
    """What is pending and what is low; `slowest` has the low watermark, None before anything was read."""

    parked_events: int
    low_stock_products: int
    outbox_pending: int
    outbox_oldest: datetime | None
    outbox_unpublishable: int
    levels_oldest: datetime | None
    slowest: Partition | None


async def read_gauges(connection: Connection) -> Gauges:
    """Read all of them."""
    parked, low, unpublishable = await connection.fetchrow(_COUNTS)
    pending, oldest = await outbox.backlog(connection)
    slowest = await connection.fetchrow(_SLOWEST)
    return Gauges(
        parked,
        low,
        pending,
        oldest,
        unpublishable,
        await levels.oldest_unpublished(connection),
        None if slowest is None else Partition(*slowest),
    )
