"""The numbers that are watched from outside, each by an index."""

from datetime import datetime
from typing import NamedTuple

from storage import outbox
from storage.database import Connection

_COUNTS = """
SELECT (SELECT count(*) FROM parked_events), (SELECT count(*) FROM inventory WHERE stock_status <> 'ok')
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
    """What waits and what runs short; `slowest` is the partition that every hold waits for, None before the first."""

    parked_events: int
    low_stock_products: int
    outbox_pending: int
    outbox_oldest: datetime | None
    slowest: Partition | None


async def read_gauges(connection: Connection) -> Gauges:
    """Count what is watched."""
    parked, low = await connection.fetchrow(_COUNTS)
    pending, oldest = await outbox.backlog(connection)
    slowest = await connection.fetchrow(_SLOWEST)
    return Gauges(parked, low, pending, oldest, None if slowest is None else Partition(*slowest))
