"""Positions of the stream, and whether the database still has what a consumer committed to it."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from storage.database import Connection
from storage.load import EventKey


class Position(NamedTuple):
    """The next offset of a partition, everything before which is applied; the topic is without its prefix."""

    topic: str
    partition: int
    next_offset: int


# A parked event whose wait has ended leaves the inbox and becomes a dead letter.
_EVENT_ENDED = """
SELECT EXISTS (SELECT FROM dead_letters WHERE event_id = $1 AND source = $2 AND reason = 'deadline_expired')
"""

_BEHIND = """
SELECT EXISTS (
    SELECT FROM unnest($1::text[], $2::int[], $3::bigint[]) AS u (topic, partition, next_offset)
    LEFT JOIN stream_progress p ON p.topic = u.topic AND p.partition = u.partition
    WHERE p.next_offset IS NULL OR p.next_offset < u.next_offset)
"""


async def event_ended(connection: Connection, key: EventKey) -> bool:
    """Say whether a parked event has become a dead letter because its order never came."""
    source, event_id = key
    ended: bool = await connection.fetchval(_EVENT_ENDED, event_id, source)
    return ended


async def has_dead_letter(connection: Connection, dead_letter_id: UUID) -> bool:
    """Say whether a dead letter is stored."""
    found: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM dead_letters WHERE id = $1)", dead_letter_id)
    return found


async def is_behind(connection: Connection, positions: Sequence[Position]) -> bool:
    """Say whether a stored position is lower than the one given here, or gone."""
    behind: bool = await connection.fetchval(_BEHIND, *map(list, zip(*positions, strict=True)))
    return behind
