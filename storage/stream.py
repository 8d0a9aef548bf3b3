"""Positions and gaps of the stream, and whether the database still has what a consumer committed to it."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
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


# --- where reading starts ------------------------------------------------------------------------


class StoredPosition(NamedTuple):
    """How far a partition was read, and when that was written."""

    next_offset: int
    updated_at: datetime


class Gap(NamedTuple):
    """Records of a partition that were not read: from one offset up to and without another."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int


class GapCause(StrEnum):
    """Why records were not read: Kafka no longer has them, or an operator skipped them."""

    DELETED = "deleted"
    SKIPPED = "skipped"


_POSITIONS = "SELECT topic, partition, next_offset, updated_at FROM stream_progress ORDER BY topic, partition"

_RAISE = """
INSERT INTO stream_progress AS s (topic, partition, next_offset, watermark)
SELECT u.topic, u.partition, u.next_offset, 'epoch'
FROM unnest($1::text[], $2::int[], $3::bigint[]) AS u (topic, partition, next_offset)
ON CONFLICT (topic, partition) DO UPDATE SET
    next_offset = greatest(s.next_offset, excluded.next_offset), updated_at = now()
"""

# The one case in which a position goes back.
_SET_BACK = """
UPDATE stream_progress SET next_offset = u.next_offset, updated_at = now()
FROM unnest($1::text[], $2::int[], $3::bigint[]) AS u (topic, partition, next_offset)
WHERE stream_progress.topic = u.topic AND stream_progress.partition = u.partition
"""

_ADD_GAPS = """
INSERT INTO stream_gaps (topic, partition, from_offset, to_offset, cause, accepted_at, accepted_by)
SELECT u.topic, u.partition, u.from_offset, u.to_offset, $5, CASE WHEN $6::text IS NOT NULL THEN now() END, $6
FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[]) AS u (topic, partition, from_offset, to_offset)
"""

_OPEN_GAP = """
SELECT format('records %s to %s of %s, partition %s, were deleted before they were read; see `inventory recover`',
    from_offset, to_offset - 1, topic, partition)
FROM stream_gaps WHERE accepted_at IS NULL ORDER BY position LIMIT 1
"""


async def positions(connection: Connection) -> dict[tuple[str, int], StoredPosition]:
    """Return the stored position of every partition, by topic (without its prefix) and number."""
    rows = await connection.fetch(_POSITIONS)
    return {(row[0], row[1]): StoredPosition(row[2], row[3]) for row in rows}


async def raise_positions(connection: Connection, raised: Sequence[Position]) -> None:
    """Make sure that positions are stored which are no lower than these."""
    if raised:
        await connection.execute(_RAISE, *map(list, zip(*raised, strict=True)))


async def set_back(connection: Connection, lowered: Sequence[Position]) -> None:
    """Store lower positions, of partitions whose topic was deleted and created again."""
    if lowered:
        await connection.execute(_SET_BACK, *map(list, zip(*lowered, strict=True)))


async def add_gaps(
    connection: Connection, gaps: Sequence[Gap], cause: GapCause, accepted_by: str | None = None
) -> None:
    """Record gaps; with `accepted_by` they are acknowledged at once."""
    if gaps:
        await connection.execute(_ADD_GAPS, *map(list, zip(*gaps, strict=True)), cause.value, accepted_by)


async def unaccepted_gap(connection: Connection) -> str | None:
    """Return in words the oldest gap that nobody has acknowledged, or None."""
    found: str | None = await connection.fetchval(_OPEN_GAP)
    return found


# --- for operators -------------------------------------------------------------------------------


class RecordedGap(NamedTuple):
    """A gap, why the records were not read, and who has acknowledged it."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int
    cause: GapCause
    noticed_at: datetime
    accepted_at: datetime | None
    accepted_by: str | None


_GAPS = """
SELECT topic, partition, from_offset, to_offset, cause, noticed_at, accepted_at, accepted_by
FROM stream_gaps ORDER BY position DESC LIMIT $1
"""

_ACCEPT = """
UPDATE stream_gaps SET accepted_at = now(), accepted_by = $1 WHERE accepted_at IS NULL
RETURNING topic, partition, from_offset, to_offset, cause, noticed_at, accepted_at, accepted_by
"""


async def newest_gaps(connection: Connection, limit: int) -> list[RecordedGap]:
    """Return gaps, the newest first."""
    return [_gap(row) for row in await connection.fetch(_GAPS, limit)]


async def accept_gaps(connection: Connection, operator: str) -> list[RecordedGap]:
    """Acknowledge every open gap; returns those."""
    return [_gap(row) for row in await connection.fetch(_ACCEPT, operator)]


def _gap(row: Any) -> RecordedGap:  # noqa: ANN401 - asyncpg's Record is untyped
    return RecordedGap(row[0], row[1], row[2], row[3], GapCause(row[4]), row[5], row[6], row[7])
