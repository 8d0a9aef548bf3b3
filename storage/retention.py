"""Retention: what is old enough goes, in bounded steps."""

from datetime import datetime

from storage.database import Connection

_PRUNE_INBOX = """
DELETE FROM inbox WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM inbox WHERE recorded_at < $1 AND outcome <> 'parked' LIMIT $2
    FOR UPDATE SKIP LOCKED))
"""

# By age of writing, not of publishing: that order is the table's own, so a BRIN index finds it.
_PRUNE_OUTBOX = """
DELETE FROM outbox WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM outbox WHERE created_at < $1 AND published_at IS NOT NULL LIMIT $2
    FOR UPDATE SKIP LOCKED))
"""


async def prune_inbox(connection: Connection, before: datetime, limit: int) -> int:
    """Forget at most `limit` events recorded before `before`; returns how many."""
    return _count(await connection.execute(_PRUNE_INBOX, before, limit))


async def prune_outbox(connection: Connection, before: datetime, limit: int) -> int:
    """Drop at most `limit` published outgoing events written before `before`; returns how many."""
    return _count(await connection.execute(_PRUNE_OUTBOX, before, limit))


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
