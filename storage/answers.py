"""Answers of the HTTP API, each written in the transaction of its request and given again to a repeat of it."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

import orjson

from storage.database import Connection
from storage.load import EventKey

_READ = """
SELECT a.source, a.event_id, a.status, a.headers, a.body
FROM unnest($1::text[], $2::text[]) AS k (event_id, source)
JOIN http_answers a ON a.event_id = k.event_id AND a.source = k.source
"""

# An answer is deleted after the inbox row of its request, never before: a repeat would find no answer.
_PRUNE = """
DELETE FROM http_answers WHERE ctid = ANY (ARRAY(
    SELECT a.ctid FROM http_answers a
    WHERE a.recorded_at < $1
        AND NOT EXISTS (SELECT FROM inbox i WHERE i.event_id = a.event_id AND i.source = a.source)
    ORDER BY a.recorded_at LIMIT $2
    FOR UPDATE SKIP LOCKED))
"""

_COLUMNS = ("event_id", "source", "status", "headers", "body")


class Answer(NamedTuple):
    """An HTTP answer, byte for byte: status, headers beside the content's type, body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


async def read_answers(connection: Connection, keys: Collection[EventKey]) -> dict[EventKey, Answer]:
    """Return the answers that were given to these requests."""
    if not keys:
        return {}
    rows = await connection.fetch(_READ, [key[1] for key in keys], [key[0] for key in keys])
    return {
        (row[0], row[1]): Answer(row[2], tuple((name, value) for name, value in orjson.loads(row[3])), row[4])
        for row in rows
    }


async def append_answers(connection: Connection, answers: Sequence[tuple[EventKey, Answer]]) -> None:
    """Remember the answers."""
    if answers:
        await connection.copy_records_to_table(
            "http_answers",
            columns=_COLUMNS,
            records=sorted(
                (key[1], key[0], answer.status, orjson.dumps(answer.headers).decode(), answer.body)
                for key, answer in answers
            ),
        )


async def prune_answers(connection: Connection, before: datetime, limit: int) -> int:
    """Delete at most `limit` answers from before `before` whose requests the inbox has forgotten; returns how many."""
    status: str = await connection.execute(_PRUNE, before, limit)
    return int(status.rpartition(" ")[2])


async def read_cursor_key(connection: Connection) -> bytes:
    """Return the key that seals the cursors of lists, the same for every process."""
    key: bytes = await connection.fetchval("SELECT key FROM http_cursor_key")
    return key
