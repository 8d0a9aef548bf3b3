"""Unpublishable events of the outbox as an operator handles them: list, send again, discard."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from storage.database import Connection

_UNPUBLISHABLE = "published_at IS NULL AND publish_error IS NOT NULL AND discarded_at IS NULL"
_LIST = f"""
SELECT id, aggregatetype, aggregateid, type, octet_length(payload), publish_error, created_at
FROM outbox WHERE {_UNPUBLISHABLE} AND ($1::uuid[] IS NULL OR id = ANY($1)) ORDER BY position LIMIT $2
"""  # noqa: S608 - constants
# A new position: relays do not read behind their low-water position again.
_RETRY = f"""
WITH taken AS (DELETE FROM outbox WHERE {_UNPUBLISHABLE} AND id = ANY($1) RETURNING *)
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, headers, occurred_at, shard, created_at)
SELECT id, aggregatetype, aggregateid, type, payload, headers, occurred_at, shard, created_at
FROM taken ORDER BY position
"""  # noqa: S608 - constants
_DISCARD = f"""
UPDATE outbox SET discarded_at = $2, publish_error = publish_error || $3 WHERE {_UNPUBLISHABLE} AND id = ANY($1)
"""  # noqa: S608 - constants


class UnpublishableEvent(NamedTuple):
    """An outgoing event that the broker will never accept, without its payload, which may be megabytes."""

    id: UUID
    topic: str
    key: str
    type: str
    size_bytes: int
    publish_error: str
    created_at: datetime


async def unpublishable(
    connection: Connection, limit: int, ids: Collection[UUID] | None = None
) -> list[UnpublishableEvent]:
    """Return at most `limit` unpublishable events, all or those of `ids`, in the order of writing."""
    return [UnpublishableEvent(*row) for row in await connection.fetch(_LIST, ids, limit)]


async def retry(connection: Connection, ids: Collection[UUID]) -> int:
    """Make unpublishable events pending again, behind all others; returns how many."""
    return _count(await connection.execute(_RETRY, ids))


async def discard(connection: Connection, ids: Collection[UUID], now: datetime, note: str) -> int:
    """Discard unpublishable events, with a note of who did and why; returns how many.

    The rows stay until retention prunes them.
    """
    return _count(await connection.execute(_DISCARD, ids, now, f"; {note}"))


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
