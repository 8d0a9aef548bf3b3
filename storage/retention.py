"""Retention: deletes old rows in bounded steps."""

from datetime import datetime

from storage.database import Connection

_PRUNE_INBOX = """
DELETE FROM inbox WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM inbox WHERE recorded_at < $1 AND outcome <> 'parked'
    ORDER BY recorded_at LIMIT $2
    FOR UPDATE SKIP LOCKED))
"""

# Positions follow the time of writing, so the oldest rows are those with the lowest positions; no others are read.
_PRUNE_OUTBOX = """
DELETE FROM outbox WHERE ctid = ANY (ARRAY(
    SELECT oldest.ctid FROM (SELECT ctid, created_at, published_at FROM outbox ORDER BY position LIMIT $2) oldest
    WHERE oldest.created_at < $1 AND oldest.published_at IS NOT NULL))
"""


async def prune_inbox(connection: Connection, before: datetime, limit: int) -> int:
    """Delete at most `limit` inbox rows recorded before `before`, parked events excepted; returns how many."""
    return _count(await connection.execute(_PRUNE_INBOX, before, limit))


async def prune_outbox(connection: Connection, before: datetime, limit: int) -> int:
    """Delete at most `limit` published outbox rows written before `before`; returns how many."""
    return _count(await connection.execute(_PRUNE_OUTBOX, before, limit))


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
