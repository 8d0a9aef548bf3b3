"""The headers of the records that the relay publishes, and the partition of an event."""

from typing import Any
from zlib import crc32

import orjson

from schemas.topics import SOURCE
from storage.dead_letters import DeadLetter
from storage.outbox import PendingEvent

MAX_HEADER_TEXT = 2000

# Headers that begin like this were added by an earlier dead-lettering of the same record, ours or another tool's.
_DEAD_LETTER_PREFIXES = ("__dlq.", "x-dlq-", "x-original-topic")

Headers = list[tuple[str, bytes]]
_CONSTANT_HEADERS: Headers = [
    ("ce_specversion", b"1.0"),
    ("ce_source", SOURCE.encode()),
    ("content-type", b"application/json"),
]


def event_headers(event: PendingEvent) -> Headers:
    """Return the CloudEvents headers (binary mode) of an outgoing event."""
    headers = [
        *_CONSTANT_HEADERS,
        ("ce_id", event.id.encode()),
        ("ce_type", event.type.encode()),
        ("ce_time", orjson.dumps(event.occurred_at, option=orjson.OPT_UTC_Z)[1:-1]),
    ]
    if event.headers is not None:
        headers.extend((name, str(value).encode()) for name, value in orjson.loads(event.headers).items())
    return headers


def dead_letter_headers(dead_letter: DeadLetter, prefix: str, group_id: str, version: str) -> Headers:
    """Return the record's own headers byte for byte, then ours, which replace those of an earlier dead letter."""
    record = dead_letter.record
    headers: list[tuple[str, Any]] = [
        (name, value) for name, value in record.headers if not name.lower().startswith(_DEAD_LETTER_PREFIXES)
    ]
    ours = {
        "__dlq.errors.topic": prefix + record.topic,
        "__dlq.errors.partition": record.partition,
        "__dlq.errors.offset": record.offset,
        "__dlq.errors.group": group_id,
        "__dlq.errors.delivery.count": dead_letter.delivery_count,
        "__dlq.errors.message": dead_letter.message[:MAX_HEADER_TEXT],
        "x-original-topic": prefix + record.topic,
        "x-dlq-version": 1,
        "x-dlq-id": dead_letter.id,
        "x-dlq-reason": dead_letter.reason,
        "x-dlq-exception-class": dead_letter.exception_class,
        "x-dlq-stacktrace": dead_letter.stacktrace,
        "x-dlq-fingerprint": dead_letter.fingerprint,
        "x-dlq-failed-at": dead_letter.failed_at.isoformat(),
        "x-dlq-original-timestamp": None if record.timestamp is None else record.timestamp.isoformat(),
        "x-dlq-event-id": dead_letter.event_id,
        "x-dlq-event-type": dead_letter.event_type,
        "x-dlq-service-version": version,
        "x-dlq-redrive-count": dead_letter.redrive_count,
    }
    headers.extend((name, str(value).encode()) for name, value in ours.items() if value is not None)
    return headers


def partition_of(key: str, count: int) -> int:
    """Return the partition of an outgoing event: CRC-32 of its key, as librdkafka's `consistent` partitioner does."""
    return crc32(key.encode()) % count
