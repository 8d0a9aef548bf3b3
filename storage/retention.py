"""Retention: deletes old rows in bounded steps."""

from datetime import datetime

from storage.database import Connection

_PRUNE_INBOX = """
DELETE FROM inbox WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM inbox WHERE recorded_at < $1 AND outcome <> 'parked'
    ORDER BY recorded_at LIMIT $2
    FOR UPDATE SKIP LOCKED))
"""

# Positions follow the time of writing, so old rows are those with low positions. A step reads a slice of positions and
# deletes what is done in it: rows that are never published hold up nothing behind them.
_PRUNE_OUTBOX = """
WITH slice AS MATERIALIZED (
    SELECT position, created_at < $1 AS old, published_at IS NOT NULL OR discarded_at IS NOT NULL AS done
    FROM outbox WHERE position > $3 ORDER BY position LIMIT $2
), pruned AS (
    DELETE FROM outbox WHERE position = ANY (ARRAY(SELECT position FROM slice WHERE old AND done)) RETURNING 1
)
SELECT (SELECT count(*) FROM pruned), CASE WHEN bool_and(old) AND count(*) = $2 THEN max(position) END FROM slice
"""


async def prune_inbox(connection: Connection, before: datetime, limit: int) -> int:
    """Delete at most `limit` inbox rows recorded before `before`, parked events excepted; returns how many."""
    return _count(await connection.execute(_PRUNE_INBOX, before, limit))


async def prune_outbox(connection: Connection, before: datetime, limit: int, after: int) -> tuple[int, int | None]:
    """Delete published and discarded rows written before `before`, among the first `limit` behind position `after`.

    Returns how many, and the position to go on from; None when no older rows are left behind it.
    """
    row = await connection.fetchrow(_PRUNE_OUTBOX, before, limit, after)
    return row[0], row[1]


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
