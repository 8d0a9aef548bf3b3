"""The relay's view of the outbox: whose turn it is, what waits, and what the broker has.

Keys are spread over `SHARDS` by hash. A relay holds a shard by a session's advisory lock, so the
events of one key are published by one relay at a time and in order; a relay that dies loses its
session and with it the locks.
"""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID
from zlib import crc32

import asyncpg

SHARDS = 16
CHANNEL = "inventory_outbox"

# Names of advisory locks: one a shard, one shared by all who relay, one for the dead letters.
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

_PENDING = """
SELECT position, id, aggregatetype, aggregateid, type, payload, headers, occurred_at
FROM outbox WHERE published_at IS NULL AND position >= $2 AND shard = ANY($1::smallint[])
ORDER BY position LIMIT $3
"""
# A sequence that gave out nothing yet says 1 as well, and the row with that position is still to come.
_LAST_POSITION = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM outbox_position_seq"
_TRANSACTIONS = """
SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint FROM pg_current_snapshot() s
"""
_PUBLISHED = "UPDATE outbox SET published_at = $2 WHERE position = ANY($1::bigint[])"
_BACKLOG = """
SELECT count(*), min(created_at) FROM (
    SELECT created_at FROM outbox WHERE published_at IS NULL LIMIT 100000
) waiting
"""


class PendingEvent(NamedTuple):
    """An outgoing event that the broker has not acknowledged."""

    position: int
    id: UUID
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
    """Be counted among the relays for as long as the session lives."""
    await connection.execute(_JOIN)


async def count_relays(connection: asyncpg.Connection) -> int:
    """Return how many relays there are, this one included."""
    count: int = await connection.fetchval(_COUNT_RELAYS)
    return count


async def take_shard(connection: asyncpg.Connection, shard: int) -> bool:
    """Try to become the one relay of `shard`; never waits."""
    taken: bool = await connection.fetchval(_TRY, shard)
    return taken


async def give_back_shard(connection: asyncpg.Connection, shard: int) -> None:
    """Let another relay have `shard`."""
    await connection.execute(_GIVE_BACK, shard)


async def pending(
    connection: asyncpg.Connection, shards: list[int], from_position: int, limit: int
) -> list[PendingEvent]:
    """Return at most `limit` events of `shards` that wait, from a position on, in the order of their writing."""
    return [PendingEvent(*row) for row in await connection.fetch(_PENDING, shards, from_position, limit)]


async def transactions(connection: asyncpg.Connection) -> tuple[int, int]:
    """Return the oldest transaction id that is under way, and the next one to be given out."""
    row = await connection.fetchrow(_TRANSACTIONS)
    return (row[0], row[1])


async def last_position(connection: asyncpg.Connection) -> int:
    """Return the last position that was given out."""
    position: int = await connection.fetchval(_LAST_POSITION)
    return position


async def mark_published(connection: asyncpg.Connection, positions: list[int], now: datetime) -> None:
    """Note that the broker has the events."""
    await connection.execute(_PUBLISHED, positions, now)


async def backlog(connection: asyncpg.Connection) -> tuple[int, datetime | None]:
    """Return how many events wait (counted to 100,000) and since when the oldest does."""
    row = await connection.fetchrow(_BACKLOG)
    return (0, None) if row is None else (row[0], row[1])
