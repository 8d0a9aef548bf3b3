"""Whatever comes in, an event or a violation comes out."""

import base64
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.envelope import LATEST, Event, Header, decode
from schemas.errors import ContractViolation
from schemas.limits import MAX_RECORD_BYTES
from schemas.topics import TOPICS_IN

REASONS = {"decode_error", "schema_invalid", "unknown_type"}
MAX_MESSAGE = 8_000

topics = st.sampled_from(sorted(TOPICS_IN))
timestamps = st.none() | st.integers(-(2**63), 2**63 - 1)
header_names = st.sampled_from(
    ["ce_id", "CE_ID", "ce_source", "ce_type", "ce_time", "ce_specversion", "content-type", "traceparent", "x", ""]
)
header_values = (
    st.none()
    | st.binary(max_size=40)
    | st.sampled_from(
        [b"1.0", b"order.created", b"2026-03-01T10:15:30Z", b"application/cloudevents+json", b"application/json"]
    )
)
headers = st.lists(st.tuples(header_names, header_values), max_size=6)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text("abc_", max_size=4), children, max_size=4)
    ),
    max_leaves=8,
)


def check_violation(violation: ContractViolation) -> None:
    """Check that a violation can be stored, sent as a header and read."""
    assert violation.reason in REASONS
    assert 0 < len(violation.message) < MAX_MESSAGE
    assert violation.message.isprintable(), violation.message
    for text in (violation.message, violation.event_id, violation.source, violation.event_type):
        assert text is None or "\x00" not in text
        assert text is None or text.encode()


def judge(topic: str, value: bytes | None, headers: list[Header], timestamp_ms: int | None) -> Event | None:
    """Decode; check what is promised of either result; return the event if it is one."""
    try:
        event = decode(topic, value, headers, timestamp_ms)
    except ContractViolation as violation:
        check_violation(violation)
        return None
    assert (topic, topic) == (event.topic, event.type)
    assert 0 < len(event.id) <= 256
    assert 0 < len(event.source) <= 256
    assert event.occurred_at <= LATEST
    assert len(event.digest) == 16
    # Everything that is stored can be stored.
    assert "\x00" not in event.id + event.source + event.data.model_dump_json().replace("\\u0000", "\x00")
    return event


@given(topics, st.none() | st.binary(max_size=200), headers, timestamps)
@example("order.created", b"\x00\x00\x00\x00\x01{}", [], 0)
@example("order.created", b'{"a":' * 2_000, [], 0)
@example("order.created", b"[" * MAX_RECORD_BYTES, [], 0)
@example("order.created", b'{"event_type":' + b"[" * 900 + b"]" * 900 + b"}", [], 0)
@example("order.created", b'{"order_id":' + b"[" * 1_000 + b"]" * 1_000 + b"}", [], 0)
@example("order.created", b'{"event_id":1e400}', [], 0)
@example("order.created", b'{"event_id":' + b"9" * 5_000 + b"}", [], 0)
def test_any_bytes_and_headers(
    topic: str, value: bytes | None, headers: list[Header], timestamp_ms: int | None
) -> None:
    """Arbitrary bytes under arbitrary headers raise ContractViolation or nothing."""
    judge(topic, value, headers, timestamp_ms)


@given(topics, json_values, headers, timestamps)
def test_any_json(topic: str, value: Any, headers: list[Header], timestamp_ms: int | None) -> None:
    """Arbitrary JSON under arbitrary headers raises ContractViolation or nothing."""
    judge(topic, orjson.dumps(value), headers, timestamp_ms)


def examples_of(topic: str) -> list[dict[str, Any]]:
    """Return the contract's own examples."""
    extra: Any = TOPICS_IN[topic].contract.model_config["json_schema_extra"]
    return list(extra["examples"])


@st.composite
def near_valid(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A topic, an example of its data, and the example with one value somewhere replaced, removed or added."""
    topic = draw(topics)
    data = draw(st.sampled_from(examples_of(topic)))
    body = orjson.loads(orjson.dumps({"event_id": "e-1", "occurred_at": "2026-03-01T10:15:30Z", **data}))
    target = body
    if "items" in body and body["items"] and draw(st.booleans()):
        target = draw(st.sampled_from(body["items"]))
    key = draw(st.sampled_from([*target, "unknown", "source", "event_type", "user_id"]))
    if draw(st.booleans()):
        target.pop(key, None)
    else:
        target[key] = draw(json_values)
    return topic, data, body


def as_plain(body: dict[str, Any]) -> tuple[bytes, list[Header]]:
    """Publish as plain JSON."""
    return orjson.dumps(body), []


def as_structured(body: dict[str, Any]) -> tuple[bytes, list[Header]]:
    """Publish in structured mode."""
    names = {"id": "event_id", "time": "occurred_at", "type": "event_type", "source": "source"}
    data = {name: value for name, value in body.items() if name not in names.values()}
    envelope = {ours: body[theirs] for ours, theirs in names.items() if theirs in body}
    return orjson.dumps({**envelope, "data": data}), [("content-type", b"application/cloudevents+json")]


def as_base64(body: dict[str, Any]) -> tuple[bytes, list[Header]]:
    """Publish in structured mode, the data as base64."""
    value, headers = as_structured(body)
    envelope = orjson.loads(value)
    envelope["data_base64"] = base64.b64encode(orjson.dumps(envelope.pop("data"))).decode()
    return orjson.dumps(envelope), headers


@pytest.mark.parametrize("wrap", [as_plain, as_structured, as_base64])
@given(near_valid())
def test_near_valid_events(
    wrap: Callable[[dict[str, Any]], tuple[bytes, list[Header]]],
    case: tuple[str, dict[str, Any], dict[str, Any]],
) -> None:
    """One wrong value in an otherwise valid event is found, or the event says exactly what its body says."""
    topic, _, body = case
    event = judge(topic, *wrap(body), 1_772_366_400_000)
    if event is not None:
        assert body.get("event_id") == event.id
        said = event.data.model_dump(mode="json", exclude_unset=True)
        assert {name: body[name] for name in said if name != "items"} == {
            name: value for name, value in said.items() if name != "items"
        }
        for line, item in zip(said.get("items") or [], body.get("items") or [], strict=True):
            assert {name: item[name] for name in ("product_id", "quantity")} == line


@given(topics, st.data())
def test_one_flipped_byte(topic: str, data: st.DataObject) -> None:
    """A bit that flipped on the way is found, or changed nothing but a value."""
    body = {"event_id": "e-1", "occurred_at": "2026-03-01T10:15:30Z", **examples_of(topic)[0]}
    value = bytearray(orjson.dumps(body))
    value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    judge(topic, bytes(value), [], 1_772_366_400_000)
