"""Dead letters and parked events: records stored with their original bytes, until a redrive or a deadline."""

from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from storage.database import Connection
from storage.load import EventKey

Headers = Sequence[tuple[str, bytes | None]]


class DeadLetterReason(StrEnum):
    """Why a record is a dead letter. The contract's own list is `schemas.outgoing.DEAD_LETTER_REASONS`."""

    DECODE_ERROR = "decode_error"
    SCHEMA_INVALID = "schema_invalid"
    UNKNOWN_TYPE = "unknown_type"
    ID_REUSED = "id_reused"
    CONFLICT = "conflict"
    DEADLINE_EXPIRED = "deadline_expired"
    RETRIES_EXHAUSTED = "retries_exhausted"


class StoredRecord(NamedTuple):
    """A Kafka record, unchanged but for the topic, which is without the deployment's prefix; times are aware UTC."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: datetime | None


class DeadLetter(NamedTuple):
    """A record that cannot be used, and why. Its `id` is the same each time the record is delivered."""

    id: UUID
    record: StoredRecord
    reason: DeadLetterReason
    message: str
    exception_class: str | None
    stacktrace: str | None
    fingerprint: str
    event_id: str | None
    event_type: str | None
    source: str | None
    delivery_count: int
    redrive_count: int
    failed_at: datetime


class ParkedEvent(NamedTuple):
    """The event of a waiting fact, with the record that carried it."""

    source: str
    event_id: str
    order_id: str
    event_type: str
    record: StoredRecord
    parked_at: datetime
    deadline: datetime


_APPEND = """
INSERT INTO dead_letters (id, topic, partition, "offset", key, value, headers, record_timestamp,
    reason, message, exception_class, stacktrace, fingerprint, event_id, event_type, source,
    delivery_count, redrive_count, failed_at)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::int[], $4::bigint[], $5::bytea[], $6::bytea[],
    $7::json[], $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[],
    $14::text[], $15::text[], $16::text[], $17::int[], $18::int[], $19::timestamptz[])
ON CONFLICT (id) DO NOTHING
"""

_PARKED_COLUMNS = (
    "source",
    "event_id",
    "order_id",
    "event_type",
    "topic",
    "partition",
    "offset",
    "key",
    "value",
    "headers",
    "record_timestamp",
    "parked_at",
    "deadline",
)

_UNPARK = """
DELETE FROM parked_events USING unnest($1::text[], $2::text[]) AS u (event_id, source)
WHERE parked_events.event_id = u.event_id AND parked_events.source = u.source
"""

_OVERDUE = """
SELECT source, event_id, order_id, event_type, topic, partition, "offset", key, value, headers,
    record_timestamp, parked_at, deadline
FROM parked_events WHERE deadline < $1 ORDER BY deadline LIMIT $2
"""

# Dead letters carry whole records, so a page is bounded in bytes; the first is in it whatever its size.
_PENDING = """
SELECT position, id, topic, partition, "offset", key, value, headers, record_timestamp, reason, message,
    exception_class, stacktrace, fingerprint, event_id, event_type, source, delivery_count,
    redrive_count, failed_at
FROM (
    SELECT *, sum(coalesce(octet_length(value), 0)) OVER (ORDER BY position) AS bytes_so_far,
        row_number() OVER (ORDER BY position) AS number
    FROM dead_letters WHERE published_at IS NULL AND publish_error IS NULL AND topic <> ALL($3::text[])
    ORDER BY position LIMIT $1
) waiting
WHERE number = 1 OR bytes_so_far <= $2 ORDER BY position
"""


async def append_dead_letters(connection: Connection, added: Sequence[DeadLetter]) -> None:
    """Store the dead letters; one that is stored already stays as it is."""
    if not added:
        return
    rows = [
        (dead_letter.id, *_record_columns(dead_letter.record), *dead_letter[2:])
        for dead_letter in {dead_letter.id: dead_letter for dead_letter in added}.values()
    ]
    await connection.execute(_APPEND, *map(list, zip(*rows, strict=True)))


async def park(connection: Connection, events: Iterable[ParkedEvent]) -> None:
    """Store parked events."""
    rows = [
        (*event[:4], *_record_columns(event.record), event.parked_at, event.deadline)
        for event in sorted(events, key=lambda event: event[:2])
    ]
    if rows:
        await connection.copy_records_to_table("parked_events", columns=_PARKED_COLUMNS, records=rows)


async def unpark(connection: Connection, keys: Collection[EventKey]) -> None:
    """Delete parked events whose facts no longer wait."""
    if keys:
        await connection.execute(_UNPARK, [key[1] for key in keys], [key[0] for key in keys])


async def overdue(connection: Connection, until: datetime, limit: int) -> list[ParkedEvent]:
    """Return at most `limit` parked events whose deadline has passed, the oldest first, without locking them."""
    rows = await connection.fetch(_OVERDUE, until, limit)
    return [ParkedEvent(row[0], row[1], row[2], row[3], record_of(row, 4), row[11], row[12]) for row in rows]


async def pending_dead_letters(
    connection: Connection, limit: int, max_bytes: int, *, without_topics: Sequence[str] = ()
) -> list[tuple[int, DeadLetter]]:
    """Return the oldest dead letters that the broker has not acknowledged, with their positions.

    At most `limit`, and no more than `max_bytes` of record values in all; the first comes whatever its size.
    """
    rows = await connection.fetch(_PENDING, limit, max_bytes, without_topics)
    return [(row[0], DeadLetter(row[1], record_of(row, 2), DeadLetterReason(row[9]), *tuple(row)[10:])) for row in rows]


async def mark_published(connection: Connection, positions: Sequence[int], now: datetime) -> None:
    """Record that the broker acknowledged the dead letters."""
    await connection.execute(
        "UPDATE dead_letters SET published_at = $2 WHERE position = ANY($1::bigint[])"
        " AND published_at IS NULL AND publish_error IS NULL",
        positions,
        now,
    )


async def mark_unpublishable(connection: Connection, position: int, error: str) -> None:
    """Record that the broker will never accept the dead letter: it is kept in this table only."""
    await connection.execute(
        "UPDATE dead_letters SET publish_error = $2 WHERE position = $1"
        " AND published_at IS NULL AND publish_error IS NULL",
        position,
        error,
    )


def _record_columns(record: StoredRecord) -> tuple[object, ...]:
    headers = [[name, None if value is None else b64encode(value).decode()] for name, value in record.headers]
    return (*record[:5], orjson.dumps(headers).decode(), record.timestamp)


def record_of(row: Any, first: int) -> StoredRecord:  # noqa: ANN401 - asyncpg's Record is untyped
    """Return the record that a row has from column `first` on, in the order of `StoredRecord`'s fields."""
    headers = [(name, None if value is None else b64decode(value)) for name, value in orjson.loads(row[first + 5])]
    return StoredRecord(
        row[first], row[first + 1], row[first + 2], row[first + 3], row[first + 4], headers, row[first + 6]
    )
