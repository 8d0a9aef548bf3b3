"""From a raw Kafka record to an event, or to a sentence about what is wrong with it.

Three envelopes are understood (CloudEvents 1.0 over Kafka, and what a team tries first):

- structured: `content-type: application/cloudevents+json`, the body is the CloudEvent;
- binary: headers `ce_id`, `ce_source`, `ce_type`, `ce_time`, the body is the data;
- plain JSON: the body is the data and also carries `event_id` and `occurred_at`, and may carry `source` and
  `event_type`.

Header names are case-insensitive. What is missing is filled in as far as it is safe: source and type from the topic,
`ce_time` from the record's timestamp.
"""

import re
from base64 import b64decode
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Final, NamedTuple

import orjson
from pydantic import ValidationError

from schemas.errors import ContractViolation, ViolationReason
from schemas.explain import explain, show, summary
from schemas.incoming import IncomingData
from schemas.limits import MAX_AHEAD_HOURS, MAX_ID_LENGTH, MAX_RECORD_BYTES
from schemas.topics import TOPICS_IN, TopicIn

DIGEST_BYTES: Final = 16
# Room on both sides for adding and subtracting any time to live.
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(3000, 1, 1, tzinfo=UTC)

Header = tuple[str, bytes | None]


class Event(NamedTuple):
    """One valid event. (source, id) is its identity.

    `type` is the topic's event type without a producer's prefix. `digest` is 16 bytes over the topic and the validated
    data, not over time or envelope: the same id with another digest is other content, while a producer's retry with a
    new timestamp is the same event. (A named tuple, because building one costs a quarter of a frozen dataclass.)
    """

    topic: str
    id: str
    source: str
    type: str
    occurred_at: datetime
    data: IncomingData
    traceparent: str | None
    digest: bytes


class _Envelope(NamedTuple):
    """The attributes as they came, unchecked, and what they are called where they came from."""

    names: "_Names"
    id: object
    source: object
    type: object
    time: object
    data: object
    trace: object


class _Names(NamedTuple):
    id: str
    source: str
    type: str
    time: str
    data: str


class _Tools(NamedTuple):
    """What each event of a topic needs, looked up once: through the class it costs half a microsecond each time."""

    validate: Callable[[object], IncomingData]
    to_json: Callable[..., bytes]
    digest_prefix: bytes


_TOOLS = {
    name: _Tools(
        topic.contract.__pydantic_validator__.validate_python,
        topic.contract.__pydantic_serializer__.to_json,
        f"{name}\n".encode(),
    )
    for name, topic in TOPICS_IN.items()
}
_BINARY = _Names("header ce_id", "header ce_source", "header ce_type", "header ce_time", "")
_STRUCTURED = _Names("id", "source", "type", "time", "data")
_PLAIN = _Names("event_id", "source", "event_type", "occurred_at", "")

# Any of these makes it binary mode.
_CE_REQUIRED = frozenset(("ce_id", "ce_source", "ce_type", "ce_specversion"))
_RELEVANT = _CE_REQUIRED | {"ce_time", "ce_traceparent", "content-type", "traceparent"}
_MAX_AHEAD_MS = MAX_AHEAD_HOURS * 3_600_000
_LATEST_MS = int(LATEST.timestamp() * 1_000)
_FRAME_BYTES = 5

_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def decode(
    topic: str,
    value: bytes | None,
    headers: Sequence[Header],
    timestamp_ms: int | None,
    now_ms: int | None = None,
) -> Event:
    """Return the event that a record of `topic` carries.

    `topic` is one of `TOPICS_IN`, without a deployment's prefix. `timestamp_ms` is the record's own; None or a negative
    one means that it has none. `now_ms` is the reader's clock. An event's time may be at most MAX_AHEAD_HOURS ahead of
    the earlier of the two. Raises `ContractViolation`, and nothing else, whatever the bytes and the headers are.
    """
    contract = TOPICS_IN[topic]
    found = _relevant(headers)
    try:
        content_type = found.get("content-type")
        if content_type is not None and b"cloudevents" in content_type.lower():
            envelope = _structured(content_type, value, found)
        elif _CE_REQUIRED.isdisjoint(found):
            envelope = _plain(value, found)
        else:
            envelope = _binary(value, found)
        return _event(contract, envelope, timestamp_ms, now_ms)
    except ContractViolation as violation:
        # A body that cannot be read may still have an identity, in its headers.
        violation.event_id = violation.event_id or _storable(found.get("ce_id"))
        violation.source = violation.source or _storable(found.get("ce_source"))
        violation.event_type = violation.event_type or _storable(found.get("ce_type"))
        raise


def _relevant(headers: Sequence[Header]) -> dict[str, bytes | None]:
    """Return the headers that mean something here, by lower-case name."""
    as_they_are = dict(headers)
    if len(as_they_are) == len(headers) and _RELEVANT.issuperset(as_they_are):
        return as_they_are  # the usual case, in a quarter of the time
    found: dict[str, bytes | None] = {}
    for name, value in headers:
        key = name if name in _RELEVANT else name.lower()
        if key in _RELEVANT and found.setdefault(key, value) != value and not key.endswith("traceparent"):
            raise ContractViolation("decode_error", f"header {key}: is given twice, with different values")
    return found


def _structured(content_type: bytes, value: bytes | None, found: Mapping[str, bytes | None]) -> _Envelope:
    if content_type.partition(b";")[0].strip().lower() != b"application/cloudevents+json":
        shown = show(content_type.decode("utf-8", "replace"))
        raise ContractViolation(
            "decode_error",
            f"header content-type: must be application/cloudevents+json, one event per record, got {shown}",
        )
    body = _parse(value)
    _check_version("specversion", body.get("specversion"))
    data = body.get("data")
    if data is None and "data_base64" in body:
        data = _parse_base64(body["data_base64"])
    return _Envelope(
        _STRUCTURED,
        body.get("id"),
        body.get("source"),
        body.get("type"),
        body.get("time"),
        data,
        _traceparent(found) or body.get("traceparent"),
    )


def _binary(value: bytes | None, found: Mapping[str, bytes | None]) -> _Envelope:
    if found.get("ce_specversion") != b"1.0":
        _check_version("header ce_specversion", _text(found, "ce_specversion"))
    return _Envelope(
        _BINARY,
        _text(found, "ce_id"),
        _text(found, "ce_source"),
        _text(found, "ce_type"),
        _text(found, "ce_time"),
        _parse(value),
        _traceparent(found),
    )


def _plain(value: bytes | None, found: Mapping[str, bytes | None]) -> _Envelope:
    body = _parse(value)
    if "specversion" in body and "event_id" not in body:
        raise ContractViolation(
            "schema_invalid",
            "the body looks like a structured CloudEvent: send it with the header "
            "content-type: application/cloudevents+json",
        )
    type_ = body.get("event_type")
    if type_ is None:
        # `type` may be a field of the producer's own ("card"): only a dotted name is taken for an event's type.
        own = body.get("type")
        type_ = own if isinstance(own, str) and "." in own else None
    return _Envelope(
        _PLAIN, body.get("event_id"), body.get("source"), type_, body.get("occurred_at"), body, _traceparent(found)
    )


def _event(topic: TopicIn, envelope: _Envelope, timestamp_ms: int | None, now_ms: int | None) -> Event:
    """Check everything and report every problem at once, so that a producer mends them in one go."""
    names, type_, source = envelope.names, envelope.type, envelope.source
    if type_ is not None and type_ != topic.name and not _is_prefixed(type_, topic.name):
        message = (
            f"{names.type}: {show(type_)} does not belong on topic {topic.name}; expected {topic.name!r}, "
            f"alone or behind a prefix such as 'com.example.{topic.name}'"
        )
        raise _violation("unknown_type", message, envelope)
    problems: list[str] = []
    event_id = _identifier(names.id, envelope.id, problems)
    source = topic.name if source is None else _identifier(names.source, source, problems)
    occurred_at = _time(names, envelope.time, timestamp_ms, now_ms, problems)
    tools = _TOOLS[topic.name]
    try:
        data = tools.validate(envelope.data)
    except ValidationError as error:
        problems.extend(explain(error, names.data))
        raise _violation("schema_invalid", summary(problems), envelope) from None
    if problems:
        raise _violation("schema_invalid", summary(problems), envelope)
    # Defaults are left out, so that a contract that gains an optional field keeps the digests it had.
    canonical = tools.to_json(data, exclude_defaults=True)
    return Event(
        topic.name,
        event_id,
        source,
        topic.name,
        occurred_at,
        data,
        _checked_trace(envelope.trace),
        blake2b(tools.digest_prefix + canonical, digest_size=DIGEST_BYTES).digest(),
    )


def _parse(value: bytes | None) -> dict[str, object]:
    if value is None:
        raise ContractViolation("decode_error", "the record has no value (a tombstone)")
    if not value:
        raise ContractViolation("decode_error", "the record's value is empty")
    if len(value) > MAX_RECORD_BYTES:
        raise ContractViolation(
            "schema_invalid", f"the record's value must have at most {MAX_RECORD_BYTES} bytes, got {len(value)}"
        )
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise ContractViolation("decode_error", _not_json(value, error)) from None
    if not isinstance(body, dict):
        raise ContractViolation("schema_invalid", f"the body must be a JSON object, got {show(body)}")
    return body


def _not_json(value: bytes, error: orjson.JSONDecodeError) -> str:
    if value[0] == 0 and len(value) >= _FRAME_BYTES:
        schema_id = int.from_bytes(value[1:_FRAME_BYTES], "big")
        return (
            f"the body is schema-registry framed (Confluent wire format), schema id {schema_id}: "
            "publish JSON without a schema registry's serializer"
        )
    if value.startswith(BOM_UTF8):
        return "the body begins with a byte order mark: publish JSON as UTF-8 without one"
    return f"the body is not JSON: {error}"


def _parse_base64(value: object) -> dict[str, object]:
    try:
        return _parse(b64decode(value if isinstance(value, str) else "?", validate=True))
    except ValueError:
        raise ContractViolation("decode_error", f"data_base64: must be base64, got {show(value)}") from None
    except ContractViolation as violation:
        raise ContractViolation(violation.reason, f"data_base64: {violation.message}") from None


def _text(found: Mapping[str, bytes | None], name: str) -> str | None:
    value = found.get(name)
    if value is None:
        if name not in found:
            return None
        raise ContractViolation("decode_error", f"header {name}: must be UTF-8 text, got null")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ContractViolation("decode_error", f"header {name}: must be UTF-8 text, got {show(value)}") from None


def _check_version(name: str, value: object) -> None:
    if value is not None and value != "1.0":
        raise ContractViolation("schema_invalid", f"{name}: must be 1.0, the version of CloudEvents, got {show(value)}")


def _is_prefixed(type_: object, name: str) -> bool:
    return isinstance(type_, str) and type_.endswith(f".{name}")


def _identifier(name: str, value: object, problems: list[str]) -> str:
    """Return the value if it is an id that can be stored and indexed, else note the problem."""
    if isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH and "\x00" not in value:
        return value
    if value is None:
        problems.append(f"{name}: is missing")
    elif isinstance(value, str) and len(value) > MAX_ID_LENGTH:
        problems.append(f"{name}: must have at most {MAX_ID_LENGTH} characters, got {len(value)}")
    else:
        problems.append(f"{name}: must be a non-empty string without U+0000, got {show(value)}")
    return ""


def _time(names: _Names, value: object, timestamp_ms: int | None, now_ms: int | None, problems: list[str]) -> datetime:
    """Return the event's time in UTC; adds a problem where there is none or it is too far ahead."""
    recorded_ms = None if timestamp_ms is None or timestamp_ms < 0 else timestamp_ms
    if value is None:
        # Plain JSON has no standard that would make its time optional, and a time guessed is an expiry guessed.
        if names is _PLAIN or recorded_ms is None or recorded_ms > _LATEST_MS:
            problems.append(f"{names.time}: is missing")
            return EARLIEST
        if now_ms is not None and recorded_ms > now_ms + _MAX_AHEAD_MS:
            problems.append(
                f"{names.time}: is missing, and the record's timestamp {_stamp(recorded_ms)} is more than "
                f"{MAX_AHEAD_HOURS} hours ahead of the worker's clock"
            )
        return EARLIEST + timedelta(milliseconds=recorded_ms)
    moment = _parse_time(value)
    if moment is None:
        problems.append(f"{names.time}: must be a time like 2026-03-01T10:15:30Z, with its offset, got {show(value)}")
        return EARLIEST
    # Bounds the harm of a broken clock: a time far ahead would hold stock for as long. The record's timestamp is often
    # the same broken clock's (Kafka before 4.0 accepts any), so the reader's clock bounds it as well.
    ahead_ms = moment.timestamp() * 1_000 - _MAX_AHEAD_MS
    if now_ms is not None and ahead_ms > now_ms:
        problems.append(
            f"{names.time}: must be at most {MAX_AHEAD_HOURS} hours ahead of the worker's clock {_stamp(now_ms)}, "
            f"got {show(value)}"
        )
    elif recorded_ms is not None and ahead_ms > recorded_ms:
        problems.append(
            f"{names.time}: must be at most {MAX_AHEAD_HOURS} hours ahead of the record's timestamp "
            f"{_stamp(recorded_ms)}, got {show(value)}"
        )
    return moment


def _stamp(milliseconds: int) -> str:
    return (EARLIEST + timedelta(milliseconds=milliseconds)).isoformat()


def _parse_time(value: object) -> datetime | None:
    """Read RFC 3339; `fromisoformat` alone would take weeks, ordinals and times without an offset."""
    if not isinstance(value, str) or _RFC_3339.fullmatch(value) is None:
        return None
    try:
        moment = datetime.fromisoformat(value.upper())
        if moment.tzinfo is not UTC:
            moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if EARLIEST <= moment <= LATEST else None


def _checked_trace(value: object) -> str | None:
    # Tracing is a courtesy: what is malformed is dropped, never held against the event.
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None


def _traceparent(found: Mapping[str, bytes | None]) -> str | None:
    value = found.get("traceparent") or found.get("ce_traceparent")
    return value.decode("ascii", "replace") if value else None


def _violation(reason: ViolationReason, message: str, envelope: _Envelope) -> ContractViolation:
    return ContractViolation(
        reason,
        message,
        event_id=_storable(envelope.id),
        source=_storable(envelope.source),
        event_type=_storable(envelope.type),
    )


def _storable(value: object) -> str | None:
    """Return an identity attribute if a table and a header can hold it."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH and "\x00" not in value:
        return value
    return None
