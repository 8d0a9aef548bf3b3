"""The relay's SQL on the outbox: who holds which shard, which events are pending, which are published.

Keys are spread over `SHARDS` by hash. A relay holds a shard by a session-level advisory lock, so the
events of a key are published by one relay at a time and in order; the locks of a relay that dies end
with its session.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from zlib import crc32

import asyncpg

SHARDS = 16
CHANNEL = "inventory_outbox"

# Advisory locks: one for each shard (the dead letters are the last), and one that all relays share to be counted.
_SHARD_LOCKS = 0x1A7E01
_ROLL_CALL = 0x1A7E02
DEAD_LETTER_SHARD = SHARDS

_JOIN = f"SELECT pg_advisory_lock_shared({_ROLL_CALL}, 0)"
_COUNT_RELAYS = f"""
SELECT count(DISTINCT pid) FROM pg_locks
WHERE locktype = 'advisory' AND classid = {_ROLL_CALL} AND objid = 0 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""  # noqa: S608 - a constant
_TRY = f"SELECT pg_try_advisory_lock({_SHARD_LOCKS}, $1)"
_GIVE_BACK = f"SELECT pg_advisory_unlock({_SHARD_LOCKS}, $1)"

_COLUMNS = "position, id::text, aggregatetype, aggregateid, type, payload, headers, occurred_at"

# Mark and fetch in one statement and one commit. Its snapshot predates the UPDATE, so the marked rows are excluded:
# by a subquery, which is hashed whatever the plan, where `<> ALL` would compare each row with each mark.
_MARK_AND_FETCH = f"""
WITH marked AS (UPDATE outbox SET published_at = $5 WHERE position = ANY($4::bigint[]))
SELECT {_COLUMNS}
FROM outbox WHERE published_at IS NULL AND publish_error IS NULL AND position >= $2 AND shard = ANY($1::smallint[])
    AND position NOT IN (SELECT unnest($4::bigint[]))
ORDER BY position LIMIT $3
"""  # noqa: S608 - constants
# The same without what is set aside. A statement of its own, so that the usual one does not pay for the comparison.
_MARK_AND_FETCH_OTHERS = _MARK_AND_FETCH.replace(
    "ORDER BY",
    """AND aggregatetype <> ALL($6::text[])
    AND (aggregatetype, aggregateid) NOT IN (SELECT * FROM unnest($7::text[], $8::text[]))
ORDER BY""",
)
_FIRST_OF = f"""
SELECT {_COLUMNS}
FROM outbox WHERE published_at IS NULL AND publish_error IS NULL AND position >= $2 AND shard = ANY($1::smallint[])
    AND aggregatetype = $3 AND ($4::text[] IS NULL OR aggregateid = ANY($4))
ORDER BY position LIMIT 1
"""  # noqa: S608 - constants
# Before its first use a sequence's last_value is 1 as well, though no row has position 1 yet.
_LAST_POSITION = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM outbox_position_seq"
_TRANSACTIONS = """
SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint FROM pg_current_snapshot() s
"""
_PUBLISHED = "UPDATE outbox SET published_at = $2 WHERE position = ANY($1::bigint[])"
_UNPUBLISHABLE = """
UPDATE outbox SET publish_error = $2 WHERE position = $1 AND published_at IS NULL AND publish_error IS NULL
"""
_BACKLOG = """
SELECT count(*), min(created_at) FROM (
    SELECT created_at FROM outbox WHERE published_at IS NULL AND publish_error IS NULL LIMIT 100000
) pending
"""


class PendingEvent(NamedTuple):
    """An outgoing event that the broker has not acknowledged."""

    position: int
    id: str
    topic: str
    key: str
    type: str
    payload: str
    headers: str | None
    occurred_at: datetime


def shard_of(key: str) -> int:
    """Return the shard whose relay publishes the events of `key`."""
    return crc32(key.encode()) % SHARDS


async def join_relays(connection: asyncpg.Connection) -> None:
    """Count as a relay for as long as the session lives."""
    await connection.execute(_JOIN)


async def count_relays(connection: asyncpg.Connection) -> int:
    """Return how many relays there are, this one included."""
    count: int = await connection.fetchval(_COUNT_RELAYS)
    return count


async def take_shard(connection: asyncpg.Connection, shard: int) -> bool:
    """Try to become the only relay of `shard` without waiting; returns whether that succeeded."""
    taken: bool = await connection.fetchval(_TRY, shard)
    return taken


async def give_back_shard(connection: asyncpg.Connection, shard: int) -> None:
    """Release `shard`, so that another relay can take it."""
    await connection.execute(_GIVE_BACK, shard)


async def pending(  # noqa: PLR0913 - one parameter per condition
    connection: asyncpg.Connection,
    shards: list[int],
    from_position: int,
    limit: int,
    *,
    published: Sequence[int] = (),
    now: datetime,
    without_topics: Sequence[str] = (),
    without_keys: Sequence[tuple[str, str]] = (),
) -> list[PendingEvent]:
    """Mark the events `published`, and return the pending ones that remain.

    At most `limit` of `shards`, from `from_position` on, in the order in which they were written. `without_keys` are
    (topic, key) pairs.
    """
    arguments = (shards, from_position, limit, published, now)
    if without_topics or without_keys:
        topics, keys = [pair[0] for pair in without_keys], [pair[1] for pair in without_keys]
        rows = await connection.fetch(_MARK_AND_FETCH_OTHERS, *arguments, without_topics, topics, keys)
    else:
        rows = await connection.fetch(_MARK_AND_FETCH, *arguments)
    return [PendingEvent(*row) for row in rows]


async def first_pending(
    connection: asyncpg.Connection, shards: list[int], from_position: int, topic: str, keys: Collection[str] | None
) -> PendingEvent | None:
    """Return the first pending event of a topic, of any key or of one of `keys`, from `from_position` on."""
    row = await connection.fetchrow(_FIRST_OF, shards, from_position, topic, None if keys is None else list(keys))
    return None if row is None else PendingEvent(*row)


async def transactions(connection: asyncpg.Connection) -> tuple[int, int]:
    """Return the oldest transaction id that is still running, and the next one to be assigned."""
    row = await connection.fetchrow(_TRANSACTIONS)
    return (row[0], row[1])


async def last_position(connection: asyncpg.Connection) -> int:
    """Return the last position that was assigned."""
    position: int = await connection.fetchval(_LAST_POSITION)
    return position


async def mark_published(connection: asyncpg.Connection, positions: Sequence[int], now: datetime) -> None:
    """Mark events that the broker acknowledged, when no poll follows that would mark them."""
    await connection.execute(_PUBLISHED, positions, now)


async def mark_unpublishable(connection: asyncpg.Connection, position: int, error: str) -> None:
    """Record that the broker will never accept the event: it stays in the table until an operator decides."""
    await connection.execute(_UNPUBLISHABLE, position, error)


async def backlog(connection: asyncpg.Connection) -> tuple[int, datetime | None]:
    """Return how many events are pending (counted up to 100,000), and when the oldest was written.

    Unpublishable ones are not pending.
    """
    row = await connection.fetchrow(_BACKLOG)
    return (0, None) if row is None else (row[0], row[1])
