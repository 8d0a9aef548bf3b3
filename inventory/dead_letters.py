"""What `inventory dlq` shows of the dead letters that the workers stored in PostgreSQL; changes nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from inventory.console import printable
from inventory.errors import OperatorError
from storage import dead_letter_queries
from storage.database import Connection
from storage.dead_letter_queries import Filter


async def newest(connection: Connection, matching: Filter, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Return the newest matching dead letters without their bytes, and how many match in all."""
    page = await dead_letter_queries.read_newest(connection, matching, limit)
    return [_plain(found._asdict()) for found in page.dead_letters], page.total


async def groups(connection: Connection, matching: Filter, limit: int) -> list[dict[str, Any]]:
    """Return the groups of matching dead letters that failed alike, the largest first."""
    found = await dead_letter_queries.read_groups(connection, matching, limit)
    return [_plain(asdict(group)) for group in found]


async def one(connection: Connection, prefix: str) -> dict[str, Any]:
    """Return the one dead letter whose id begins with `prefix` (lower case), with its bytes.

    Raises OperatorError when there is none, or more than one.
    """
    found = await dead_letter_queries.read_by_prefix(connection, prefix, 2)
    if not found:
        raise OperatorError(f"there is no dead letter {prefix}: `inventory dlq list` shows them")
    if len(found) > 1:
        raise OperatorError(f"several dead letters begin with {prefix}: give more of the id")
    summary, stacktrace, record = found[0]
    return {
        **_plain(summary._asdict()),
        "key": readable(record.key),
        "value": readable(record.value),
        "headers": [{"name": name, **readable(value)} for name, value in record.headers],
        "stacktrace": stacktrace,
    }


def readable(content: bytes | None) -> dict[str, Any]:
    """Return bytes as text where they are UTF-8, otherwise in hexadecimal; nothing is lost either way."""
    if content is None:
        return {"encoding": "null", "content": None}
    try:
        return {"encoding": "utf-8", "content": content.decode()}
    except UnicodeDecodeError:
        return {"encoding": "hex", "content": content.hex()}


def described(dead_letter: Mapping[str, Any]) -> Iterator[str]:
    """Describe one dead letter from `one` in lines for a terminal."""
    place = f"{dead_letter['topic']}, partition {dead_letter['partition']}, offset {dead_letter['offset']}"
    published = dead_letter["published_at"] or dead_letter["publish_error"] or "not yet: the relay will publish it"
    facts = {
        "id": dead_letter["id"],
        "record": place,
        "written": dead_letter["record_timestamp"],
        "reason": dead_letter["reason"],
        "message": dead_letter["message"],
        "failed": dead_letter["failed_at"],
        "published": published,
        "event": dead_letter["event_id"],
        "type": dead_letter["event_type"],
        "source": dead_letter["source"],
        "group": dead_letter["fingerprint"],
        "delivered": f"{dead_letter['delivery_count']} times, redriven {dead_letter['redrive_count']} times",
    }
    for name, value in facts.items():
        if value is not None:
            yield f"{name:<10} {printable(str(value))}"
    yield ""
    yield f"key        {_content(dead_letter['key'])}"
    yield "headers" if dead_letter["headers"] else "headers    none"
    yield from (f"  {printable(header['name'])}: {_content(header)}" for header in dead_letter["headers"])
    yield f"value      {dead_letter['value']['encoding']}"
    yield from (printable(line) for line in str(dead_letter["value"]["content"] or "").splitlines())
    if dead_letter["stacktrace"]:
        yield ""
        yield from (printable(line) for line in dead_letter["stacktrace"].splitlines())


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
