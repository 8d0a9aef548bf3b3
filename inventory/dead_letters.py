"""Reads the dead letters that the workers parked in PostgreSQL; changes nothing."""

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from inventory.console import printable
from inventory.database import connection, unreachable
from inventory.errors import OperatorError
from inventory.settings import Settings

QUERY_TIMEOUT_SECONDS: Final = 30.0
HEX_DIGITS: Final = frozenset("0123456789abcdef-")

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
    SELECT fingerprint, reason, topic, count(*) AS count, min(failed_at) AS first, max(failed_at) AS last,
           (array_agg(id ORDER BY failed_at DESC, id))[1] AS newest,
           (array_agg(message ORDER BY failed_at DESC, id))[1] AS message
    {_MATCHING}
    GROUP BY fingerprint, reason, topic
    ORDER BY count(*) DESC, max(failed_at) DESC
    LIMIT $5
"""
_BEGINNING_WITH: Final = "FROM dead_letters WHERE starts_with(id::text, $1) ORDER BY id LIMIT 2"
_ONE: Final = f"SELECT {_COLUMNS}, key, value, headers, stacktrace {_BEGINNING_WITH}"


@dataclass(frozen=True, slots=True)
class Query:
    """Which dead letters to read; None means all."""

    topic: str | None
    reason: str | None
    fingerprint: str | None
    since: datetime | None
    limit: int


async def newest(settings: Settings, query: Query) -> tuple[list[dict[str, Any]], int]:
    """Return the newest matching dead letters without their bytes, and how many match in all."""
    *filters, limit = astuple(query)
    rows = await _fetch(settings, _NEWEST, *filters, limit)
    counted = await _fetch(settings, _COUNT, *filters)
    return [_plain(row) for row in rows], counted[0]["count"]


async def groups(settings: Settings, query: Query) -> list[dict[str, Any]]:
    """Return the groups of matching dead letters that failed alike, the largest first."""
    return [_plain(row) for row in await _fetch(settings, _GROUPS, *astuple(query))]


async def one(settings: Settings, beginning: str) -> dict[str, Any]:
    """Return the one dead letter whose id begins so, with its bytes; raises OperatorError for none or several."""
    beginning = beginning.strip().lower()
    if not beginning or not HEX_DIGITS.issuperset(beginning):
        raise OperatorError(f"{beginning!r} is no id of a dead letter: `inventory dlq list` shows them")
    rows = await _fetch(settings, _ONE, beginning)
    if not rows:
        raise OperatorError(f"there is no dead letter {beginning}: `inventory dlq list` shows them")
    if len(rows) > 1:
        raise OperatorError(f"several dead letters begin with {beginning}: give more of the id")
    letter = _plain(rows[0])
    letter["key"] = readable(rows[0]["key"])
    letter["value"] = readable(rows[0]["value"])
    letter["headers"] = [
        {"name": name, **readable(None if value is None else base64.b64decode(value))}
        for name, value in json.loads(rows[0]["headers"] or "[]")
    ]
    return letter


def readable(content: bytes | None) -> dict[str, Any]:
    """Return bytes as text where they are UTF-8, else as hexadecimal digits; both keep every byte."""
    if content is None:
        return {"encoding": "null", "content": None}
    try:
        return {"encoding": "utf-8", "content": content.decode()}
    except UnicodeDecodeError:
        return {"encoding": "hex", "content": content.hex()}


def described(letter: Mapping[str, Any]) -> Iterator[str]:
    """Describe one dead letter from `one` in lines for a terminal."""
    place = f"{letter['topic']}, partition {letter['partition']}, offset {letter['offset']}"
    published = letter["published_at"] or letter["publish_error"] or "not yet, the relay will do so"
    facts = {
        "id": letter["id"],
        "record": place,
        "written": letter["record_timestamp"],
        "reason": letter["reason"],
        "message": letter["message"],
        "failed": letter["failed_at"],
        "published": published,
        "event": letter["event_id"],
        "type": letter["event_type"],
        "source": letter["source"],
        "group": letter["fingerprint"],
        "delivered": f"{letter['delivery_count']} times, replayed {letter['redrive_count']} times",
    }
    for name, value in facts.items():
        if value is not None:
            yield f"{name:<10} {printable(str(value))}"
    yield ""
    yield f"key        {_content(letter['key'])}"
    yield "headers" if letter["headers"] else "headers    none"
    yield from (f"  {printable(header['name'])}: {_content(header)}" for header in letter["headers"])
    yield f"value      {letter['value']['encoding']}"
    yield from (printable(line) for line in str(letter["value"]["content"] or "").splitlines())
    if letter["stacktrace"]:
        yield ""
        yield from (printable(line) for line in letter["stacktrace"].splitlines())


def _content(part: Mapping[str, Any]) -> str:
    match part["encoding"]:
        case "null":
            return "null"
        case "hex":
            return f"hex {part['content']}"
        case _:
            return printable(part["content"])


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain_value(value) for name, value in row.items()}


def _plain_value(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case None | bool() | int() | str():
            return value
        case _:
            return str(value)


async def _fetch(settings: Settings, statement: str, *arguments: object) -> list[Any]:
    async with connection(settings) as connected:
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_SECONDS):
                rows: list[Any] = await connected.fetch(statement, *arguments)
        except (TimeoutError, asyncpg.InterfaceError) as error:
            raise unreachable(settings, error) from error
    return rows
