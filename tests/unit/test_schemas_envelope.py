"""A record in any of the three envelopes becomes the same event."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from schemas.envelope import Event, decode
from schemas.errors import ContractViolation
from schemas.incoming import Item, OrderCreated

NOON = 1_772_366_400_000  # 2026-03-01T12:00:00Z
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
DATA = {"order_id": "o-1", "cart_id": "c-1", "items": [{"product_id": "mug", "quantity": 2}]}
HEADERS = {
    "ce_specversion": b"1.0",
    "ce_id": b"e-1",
    "ce_source": b"/shop",
    "ce_type": b"order.created",
    "ce_time": b"2026-03-01T10:15:30Z",
}
STRUCTURED = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/shop",
    "type": "order.created",
    "time": "2026-03-01T10:15:30Z",
    "data": DATA,
}
PLAIN = {"event_id": "e-1", "source": "/shop", "occurred_at": "2026-03-01T10:15:30Z", **DATA}
CE_JSON = [("content-type", b"application/cloudevents+json")]


def plain(**changes: Any) -> Event:
    """Decode the order as plain JSON, with changes to its body."""
    return decode("order.created", orjson.dumps({**PLAIN, **changes}), [], NOON)


def binary(**changes: bytes | None) -> Event:
    """Decode the order in binary mode, with changes to its headers."""
    return decode("order.created", orjson.dumps(DATA), list({**HEADERS, **changes}.items()), NOON)


def structured(**changes: Any) -> Event:
    """Decode the order in structured mode, with changes to its envelope."""
    return decode("order.created", orjson.dumps({**STRUCTURED, **changes}), CE_JSON, NOON)


def without(mapping: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the mapping without some of its keys."""
    return {name: value for name, value in mapping.items() if name not in names}


def test_the_three_envelopes_say_the_same() -> None:
    """Plain, binary and structured mode give equal events, digest included."""
    expected = Event(
        topic="order.created",
        id="e-1",
        source="/shop",
        type="order.created",
        occurred_at=datetime(2026, 3, 1, 10, 15, 30, tzinfo=UTC),
        data=OrderCreated(order_id="o-1", cart_id="c-1", items=(Item(product_id="mug", quantity=2),)),
        traceparent=None,
        # Golden: the digest is stored in the inbox, so it must not change between versions.
        digest=bytes.fromhex("6ccbbe76435165883776268310d25380"),
    )
    assert expected == plain()
    assert expected == binary()
    assert expected == structured()


def test_header_names_are_case_insensitive() -> None:
    """A producer may write CE_Id or Content-Type."""
    loud = [(name.upper(), value) for name, value in HEADERS.items()]
    assert binary() == decode("order.created", orjson.dumps(DATA), loud, NOON)
    content_type = [("Content-Type", b" Application/CloudEvents+JSON ; charset=UTF-8")]
    assert structured() == decode("order.created", orjson.dumps(STRUCTURED), content_type, NOON)


def test_a_missing_source_is_the_topic() -> None:
    """What kcat users leave out is filled in, in every envelope."""
    headers = list(without(HEADERS, "ce_source").items())
    assert decode("order.created", orjson.dumps(DATA), headers, NOON).source == "order.created"
    assert plain(source=None).source == "order.created"
    assert structured(source=None).source == "order.created"


def test_binary_mode_needs_an_id_only() -> None:
    """Type, source and time have safe values when only ce_id is given."""
    event = decode("order.created", orjson.dumps(DATA), [("ce_id", b"e-1")], NOON)
    assert (event.id, event.source, event.type) == ("e-1", "order.created", "order.created")
    assert datetime(2026, 3, 1, 12, tzinfo=UTC) == event.occurred_at


def test_a_missing_time_without_a_record_timestamp_is_refused() -> None:
    """No time is ever invented."""
    headers = list(without(HEADERS, "ce_time").items())
    for timestamp_ms in (None, -1, 10**18):
        with pytest.raises(ContractViolation, match="header ce_time: is missing"):
            decode("order.created", orjson.dumps(DATA), headers, timestamp_ms)


@pytest.mark.parametrize("type_", ["order.created", "com.example.order.created", "x.order.created"])
def test_a_type_may_carry_a_prefix(type_: str) -> None:
    """A reverse-DNS prefix is the producer's business; the event's type stays the topic's, a bounded label."""
    assert binary(ce_type=type_.encode()).type == "order.created"
    assert structured(type=type_).type == "order.created"
    assert plain(event_type=type_).type == "order.created"
    assert plain(type=type_).type == "order.created"


@pytest.mark.parametrize("type_", ["order.deleted", "xorder.created", "order.created.v2", "Order.Created", ""])
@pytest.mark.parametrize(
    "publish",
    [
        lambda type_: binary(ce_type=type_.encode()),
        lambda type_: structured(type=type_),
        lambda type_: plain(event_type=type_),
    ],
)
def test_any_other_type_is_unknown(publish: Callable[[str], Event], type_: str) -> None:
    """Nothing is applied under a name that nobody agreed on."""
    with pytest.raises(ContractViolation) as caught:
        publish(type_)
    violation = caught.value
    assert (violation.reason, violation.event_id, violation.source) == ("unknown_type", "e-1", "/shop")


def test_a_plain_field_called_type_may_be_the_producers_own() -> None:
    """Only a dotted name in `type` is taken for an event's type."""
    assert plain(type="card").type == "order.created"
    with pytest.raises(ContractViolation, match=r"'order\.deleted'"):
        plain(type="order.deleted")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T10:15:30Z", datetime(2026, 3, 1, 10, 15, 30, tzinfo=UTC)),
        ("2026-03-01t10:15:30z", datetime(2026, 3, 1, 10, 15, 30, tzinfo=UTC)),
        ("2026-03-01 10:15:30.5+02:00", datetime(2026, 3, 1, 8, 15, 30, 500_000, tzinfo=UTC)),
        ("2026-03-01T10:15:30.123456789-00:00", datetime(2026, 3, 1, 10, 15, 30, 123_456, tzinfo=UTC)),
    ],
)
def test_times_are_read_and_turned_to_utc(text: str, expected: datetime) -> None:
    """RFC 3339 in all its spellings, nanoseconds cut."""
    assert expected == plain(occurred_at=text).occurred_at
    assert UTC is plain(occurred_at=text).occurred_at.tzinfo


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T10:15:30",
        "2026-03-01",
        "20260301T101530Z",
        "2026-W09-7T10:15:30Z",
        "2026-02-30T10:15:30Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T10:15:30+02:00:30",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "1969-12-31T23:59:59Z",
        "\u0662026-03-01T10:15:30Z",
        "yesterday",
        "",
        1_772_366_400,
        True,
        {"now": "yes"},
    ],
)
def test_a_time_that_is_not_rfc_3339_is_refused(text: object) -> None:
    """A guess at a time is a guess at an expiry."""
    with pytest.raises(ContractViolation, match="occurred_at: must be a time like 2026-03-01T10:15:30Z, with its off"):
        plain(occurred_at=text)


def test_a_time_far_ahead_of_the_record_is_refused() -> None:
    """A broken clock holds stock for a day at most; late is fine."""
    assert plain(occurred_at="2026-03-02T12:00:00Z").occurred_at.day == 2
    assert plain(occurred_at="2010-12-01T08:26:00Z").occurred_at.year == 2010
    with pytest.raises(ContractViolation) as caught:
        plain(occurred_at="2026-03-02T12:00:00.001Z")
    expected = (
        "occurred_at: must be at most 24 hours ahead of the record's timestamp 2026-03-01T12:00:00+00:00, "
        "got the string '2026-03-02T12:00:00.001Z'"
    )
    assert expected == caught.value.message


@pytest.mark.parametrize("recorded", [None, NOON + 365 * 86_400_000])
def test_a_time_far_ahead_of_the_reader_is_refused(recorded: int | None) -> None:
    """A producer's broken clock often stamps the record as well; the reader's clock bounds both."""
    body = orjson.dumps({**PLAIN, "occurred_at": "2027-03-01T12:00:00Z"})
    with pytest.raises(ContractViolation, match="at most 24 hours ahead of the worker's clock 2026-03-01T12:00:00"):
        decode("order.created", body, [], recorded, NOON)
    edge = orjson.dumps({**PLAIN, "occurred_at": "2026-03-02T12:00:00Z"})
    assert decode("order.created", edge, [], recorded, NOON).occurred_at.day == 2


def test_a_record_far_ahead_of_the_reader_lends_its_time_to_no_event() -> None:
    """Binary mode takes a missing time from the record, whose timestamp may be as wrong as any."""
    headers = [("ce_id", b"e-1"), ("ce_type", b"order.created")]
    with pytest.raises(ContractViolation, match="ahead of the worker's clock"):
        decode("order.created", orjson.dumps(DATA), headers, NOON + 365 * 86_400_000, NOON)
    assert decode("order.created", orjson.dumps(DATA), headers, NOON, NOON).occurred_at.year == 2026


def test_a_record_without_timestamp_bounds_nothing() -> None:
    """None and Kafka's -1 both mean that there is none."""
    body = orjson.dumps({**PLAIN, "occurred_at": "2027-01-01T00:00:00Z"})
    for timestamp_ms in (None, -1):
        assert decode("order.created", body, [], timestamp_ms).occurred_at.year == 2027


def test_the_digest_covers_the_data_and_nothing_else() -> None:
    """A retry with a new time, unknown field or spelled-out default is the same; another quantity is not."""
    digest = plain().digest
    assert digest == plain(occurred_at="2026-03-01T11:00:00Z").digest
    assert digest == plain(source="/elsewhere", note="unknown fields are ignored").digest
    assert digest == plain(user_id=None).digest
    assert digest != plain(items=[{"product_id": "mug", "quantity": 3}]).digest
    assert digest != plain(user_id="u-1").digest


def test_the_digest_depends_on_the_topic() -> None:
    """The same body on another topic is another event."""
    body = orjson.dumps({"event_id": "e", "occurred_at": "2026-03-01T10:15:30Z", "order_id": "o"})
    paid = decode("payment.succeeded", body, [], NOON)
    cancelled = decode("order.cancelled", body, [], NOON)
    assert paid.digest != cancelled.digest


def test_the_trace_is_carried_and_never_held_against_an_event() -> None:
    """A well-formed traceparent is kept, from wherever CloudEvents allows; a malformed one is dropped."""
    assert binary(traceparent=TRACE.encode()).traceparent == TRACE
    assert binary(ce_traceparent=TRACE.encode()).traceparent == TRACE
    assert structured(traceparent=TRACE).traceparent == TRACE
    for bad in (None, b"", b"\xff\xfe", b"00-zz", TRACE.encode() + b"-extra"):
        assert binary(traceparent=bad).traceparent is None
    assert structured(traceparent=["deep"]).traceparent is None
    twice = [("ce_id", b"e-1"), ("traceparent", TRACE.encode()), ("traceparent", b"another")]
    assert decode("order.created", orjson.dumps(DATA), twice, NOON).traceparent == TRACE


def test_headers_that_mean_nothing_here_are_never_looked_at() -> None:
    """Null and binary headers of others harm no event."""
    noise = [("x", None), ("y", b"\xff\xfe"), ("ce_subject", b"\xff"), ("", b""), ("x", b"twice")]
    assert plain() == decode("order.created", orjson.dumps(PLAIN), noise, NOON)
    assert plain() == decode("order.created", orjson.dumps(PLAIN), [("content-type", None)], NOON)
    assert plain() == decode("order.created", orjson.dumps(PLAIN), [("content-type", b"\xff")], NOON)


def test_structured_data_may_be_base64() -> None:
    """Some SDKs send JSON as bytes."""
    encoded = base64.b64encode(orjson.dumps(DATA)).decode()
    body = orjson.dumps({**without(STRUCTURED, "data"), "data_base64": encoded})
    assert structured() == decode("order.created", body, CE_JSON, NOON)


def test_an_id_may_be_any_string_of_256_characters() -> None:
    """Not only UUIDs, and characters rather than bytes are counted."""
    assert plain(event_id="\u20ac" * 256).id == "\u20ac" * 256
    with pytest.raises(ContractViolation, match="event_id: must have at most 256 characters, got 257"):
        plain(event_id="\u20ac" * 257)
