"""Dead letters as people look at them: filtered, grouped, or one by its id. Reads only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from storage.database import Connection
from storage.dead_letters import DeadLetterReason, StoredRecord, record_of

_MATCHING: Final = """
    FROM dead_letters
    WHERE ($1::text IS NULL OR topic = $1)
      AND ($2::text IS NULL OR reason = $2)
      AND ($3::text IS NULL OR fingerprint = $3)
      AND ($4::timestamptz IS NULL OR failed_at >= $4)
"""
_COLUMNS: Final = """
    id, topic, "partition", "offset", reason, message, exception_class, fingerprint, event_id, event_type, source,
    delivery_count, redrive_count, record_timestamp, failed_at, published_at, publish_error
"""
_NEWEST: Final = f"SELECT {_COLUMNS} {_MATCHING} ORDER BY failed_at DESC, id LIMIT $5"
_COUNT: Final = f"SELECT count(*) {_MATCHING}"
_GROUPS: Final = f"""
    SELECT fingerprint, reason, topic, count(*), min(failed_at), max(failed_at),
           (array_agg(id ORDER BY failed_at DESC, id))[1],
           (array_agg(message ORDER BY failed_at DESC, id))[1]
    {_MATCHING}
    GROUP BY fingerprint, reason, topic
    ORDER BY count(*) DESC, max(failed_at) DESC
    LIMIT $5
"""
_BY_PREFIX: Final = f"""
    SELECT {_COLUMNS}, stacktrace, topic, "partition", "offset", key, value, headers, record_timestamp
    FROM dead_letters WHERE starts_with(id::text, $1) ORDER BY id LIMIT $2
"""  # noqa: S608 - constants


class Filter(NamedTuple):
    """Which dead letters: those that match every field that is not None."""

    topic: str | None = None
    reason: str | None = None
    fingerprint: str | None = None
    since: datetime | None = None


class Summary(NamedTuple):
    """A dead letter without its record's bytes."""

    id: UUID
    topic: str
    partition: int
    offset: int
    reason: DeadLetterReason
    message: str
    exception_class: str | None
    fingerprint: str
    event_id: str | None
    event_type: str | None
    source: str | None
    delivery_count: int
    redrive_count: int
    record_timestamp: datetime | None
    failed_at: datetime
    published_at: datetime | None
    publish_error: str | None


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters that failed alike: how many, since when and until when, and the newest of them."""

    fingerprint: str
    reason: DeadLetterReason
    topic: str
    count: int
    first: datetime
    last: datetime
    newest: UUID
    message: str


class Details(NamedTuple):
    """A dead letter with its record and its stack trace."""

    summary: Summary
    stacktrace: str | None
    record: StoredRecord


class Page(NamedTuple):
    """The newest matching dead letters, and how many match in all."""

    dead_letters: Sequence[Summary]
    total: int


async def read_newest(connection: Connection, matching: Filter, limit: int) -> Page:
    """Return at most `limit` matching dead letters, the newest first, and their total, both from one snapshot."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        rows = await connection.fetch(_NEWEST, *matching, limit)
        total: int = await connection.fetchval(_COUNT, *matching)
    return Page([_summary(row) for row in rows], total)


async def read_groups(connection: Connection, matching: Filter, limit: int) -> list[Group]:
    """Return at most `limit` groups of matching dead letters that failed alike, the largest first."""
    rows = await connection.fetch(_GROUPS, *matching, limit)
    return [Group(row[0], DeadLetterReason(row[1]), *tuple(row)[2:]) for row in rows]


async def read_by_prefix(connection: Connection, prefix: str, limit: int) -> list[Details]:
    """Return at most `limit` dead letters whose ids begin with `prefix` (lower case), in the order of their ids."""
    rows = await connection.fetch(_BY_PREFIX, prefix, limit)
    columns = len(Summary._fields)
    return [Details(_summary(row), row[columns], record_of(row, columns + 1)) for row in rows]


def _summary(row: Any) -> Summary:  # noqa: ANN401 - asyncpg's Record is untyped
    summary = Summary._make(tuple(row)[: len(Summary._fields)])
    return summary._replace(reason=DeadLetterReason(summary.reason))
