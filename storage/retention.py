"""Retention: what is old enough goes, in bounded steps."""

from datetime import datetime

from storage.database import Connection

_PRUNE_INBOX = """
DELETE FROM inbox WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM inbox WHERE recorded_at < $1 AND outcome <> 'parked'
    ORDER BY recorded_at LIMIT $2
    FOR UPDATE SKIP LOCKED))
"""

# By age of writing, of which the positions are the order: only the oldest rows are looked at.
_PRUNE_OUTBOX = """
DELETE FROM outbox WHERE ctid = ANY (ARRAY(
    SELECT oldest.ctid FROM (SELECT ctid, created_at, published_at FROM outbox ORDER BY position LIMIT $2) oldest
    WHERE oldest.created_at < $1 AND oldest.published_at IS NOT NULL))
"""


async def prune_inbox(connection: Connection, before: datetime, limit: int) -> int:
    """Forget at most `limit` events recorded before `before`; returns how many."""
    return _count(await connection.execute(_PRUNE_INBOX, before, limit))


async def prune_outbox(connection: Connection, before: datetime, limit: int) -> int:
    """Drop at most `limit` published outgoing events written before `before`; returns how many."""
    return _count(await connection.execute(_PRUNE_OUTBOX, before, limit))


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
