"""Each bad input has its reason, and a message that says where, what is wrong and what was found."""

import gzip
from typing import Any

import orjson
import pytest

from schemas.envelope import Header, decode
from schemas.errors import ContractViolation
from schemas.incoming import OrderCreated
from schemas.limits import MAX_RECORD_BYTES

NOON = 1_772_366_400_000
ORDER: dict[str, Any] = {
    "event_id": "e-1",
    "occurred_at": "2026-03-01T10:15:30Z",
    "order_id": "o-1",
    "items": [{"product_id": "mug", "quantity": 2}],
}
DATA = orjson.dumps({"order_id": "o-1", "items": ORDER["items"]})
CE_JSON: list[Header] = [("content-type", b"application/cloudevents+json")]


def refuse(topic: str, value: bytes | None, headers: list[Header] | None = None) -> ContractViolation:
    """Return why a record is refused."""
    with pytest.raises(ContractViolation) as caught:
        decode(topic, value, headers or [], NOON)
    return caught.value


def refuse_order(**changes: Any) -> ContractViolation:
    """Return why an order is refused, in plain JSON with changes to its body."""
    return refuse("order.created", orjson.dumps({**ORDER, **changes}))


@pytest.mark.parametrize(
    ("value", "reason", "message"),
    [
        (None, "decode_error", "the record has no value (a tombstone)"),
        (b"", "decode_error", "the record's value is empty"),
        (b'{"order_id": ', "decode_error", "the body is not JSON: unexpected end of data: line 1 column 14 (char 13)"),
        (
            b"\x00\x00\x00\x00\x2a" + DATA,
            "decode_error",
            (
                "the body is schema-registry framed (Confluent wire format), schema id 42: "
                "publish JSON without a schema registry's serializer"
            ),
        ),
        (
            b"\xef\xbb\xbf" + DATA,
            "decode_error",
            "the body begins with a byte order mark: publish JSON as UTF-8 without one",
        ),
        (b'{"quantity": NaN}', "decode_error", "the body is not JSON: "),
        (b'{"order_id": "\\ud800"}', "decode_error", "the body is not JSON: "),
        (b'{"order_id": "\xff"}', "decode_error", "the body is not JSON: "),
        (b"\x00\x01", "decode_error", "the body is not JSON: "),
        (gzip.compress(DATA, mtime=0), "decode_error", "the body is not JSON: "),
        (b"[" * 100_000, "decode_error", "the body is not JSON: "),
        (b"[1, 2]", "schema_invalid", "the body must be a JSON object, got a list of 2"),
        (b"null", "schema_invalid", "the body must be a JSON object, got null"),
        (b'"text"', "schema_invalid", "the body must be a JSON object, got the string 'text'"),
        (
            b" " * (2 * MAX_RECORD_BYTES),
            "schema_invalid",
            "the record's value must have at most 1048576 bytes, got 2097152",
        ),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bodies(value: bytes | None, reason: str, message: str) -> None:
    """What is no JSON object is named for what it is."""
    violation = refuse("order.created", value)
    assert (reason, message) == (violation.reason, violation.message[: len(message)])
    assert violation.event_id is None


def test_a_record_of_exactly_the_limit_is_read() -> None:
    """The limit itself is allowed."""
    body = orjson.dumps(ORDER)
    assert decode("order.created", body + b" " * (MAX_RECORD_BYTES - len(body)), [], NOON).id == "e-1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": [{"product_id": "m", "quantity": -3}]}, "items[0].quantity: must be at least 1, got -3"),
        ({"items": [{"product_id": "m", "quantity": 0}]}, "items[0].quantity: must be at least 1, got 0"),
        (
            {"items": [{"product_id": "m", "quantity": 1_000_001}]},
            "items[0].quantity: must be at most 1000000, got 1000001",
        ),
        (
            {"items": [{"product_id": "m", "quantity": "3"}]},
            "items[0].quantity: must be an integer, got the string '3'",
        ),
        ({"items": [{"product_id": "m", "quantity": 3.0}]}, "items[0].quantity: must be an integer, got 3.0"),
        ({"items": [{"product_id": "m", "quantity": True}]}, "items[0].quantity: must be an integer, got true"),
        ({"items": [{"product_id": "m", "quantity": None}]}, "items[0].quantity: must be an integer, got null"),
        ({"items": [{"product_id": "m"}]}, "items[0].quantity: is missing"),
        ({"items": [{"product_id": 7, "quantity": 1}]}, "items[0].product_id: must be a string, got 7"),
        ({"items": [{"product_id": "", "quantity": 1}]}, "items[0].product_id: must not be empty, got the string ''"),
        ({"items": ["mug"]}, "items[0]: must be an object, got the string 'mug'"),
        ({"items": {"product_id": "m", "quantity": 1}}, "items: must be a list, got an object"),
        ({"items": None}, "items: must be a list, got null"),
        ({"items": []}, "items: must have at least one line, got an empty list"),
        (
            {"items": [{"product_id": "m", "quantity": 1}] * 1_001},
            "items: must have at most 1000 lines, got 1001",
        ),
        ({"order_id": "o" * 257}, "order_id: must have at most 256 characters, got 257"),
        (
            {"order_id": "o\x00"},
            "order_id: must not contain the character U+0000, which PostgreSQL cannot store",
        ),
        ({"event_id": None}, "event_id: is missing"),
        ({"event_id": ""}, "event_id: must be a non-empty string without U+0000, got the string ''"),
        ({"event_id": 5}, "event_id: must be a non-empty string without U+0000, got 5"),
        ({"event_id": "e\x00"}, "event_id: must be a non-empty string without U+0000, got the string 'e\\x00'"),
        ({"source": ""}, "source: must be a non-empty string without U+0000, got the string ''"),
        ({"occurred_at": None}, "occurred_at: is missing"),
        (
            {"event_id": None, "occurred_at": "now", "order_id": 4, "items": []},
            (
                "event_id: is missing; "
                "occurred_at: must be a time like 2026-03-01T10:15:30Z, with its offset, got the string 'now'; "
                "order_id: must be a string, got 4; "
                "items: must have at least one line, got an empty list"
            ),
        ),
        (
            {"items": [{"product_id": "m", "quantity": 0}] * 7},
            "; ".join(f"items[{n}].quantity: must be at least 1, got 0" for n in range(5)) + "; and 2 more",
        ),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_fields(changes: dict[str, Any], message: str) -> None:
    """Each problem is told as path, rule and finding; all of them at once."""
    violation = refuse_order(**changes)
    assert ("schema_invalid", message) == (violation.reason, violation.message)


def test_a_thousand_lines_are_allowed() -> None:
    """The limit itself is allowed, and so is the greatest quantity."""
    items = [{"product_id": f"p-{n}", "quantity": 1_000_000} for n in range(1_000)]
    event = decode("order.created", orjson.dumps({**ORDER, "items": items}), [], NOON)
    assert isinstance(event.data, OrderCreated)
    assert len(event.data.items) == 1_000


@pytest.mark.parametrize(
    ("headers", "reason", "message"),
    [
        ([("ce_id", None)], "decode_error", "header ce_id: must be UTF-8 text, got null"),
        (
            [("ce_id", b"\xff\xfe")],
            "decode_error",
            "header ce_id: must be UTF-8 text, got the bytes b'\\xff\\xfe'",
        ),
        (
            [("ce_id", b"e-1"), ("ce_time", b"\x80")],
            "decode_error",
            "header ce_time: must be UTF-8 text, got the bytes b'\\x80'",
        ),
        (
            [("ce_id", b"e-1"), ("CE_ID", b"e-2")],
            "decode_error",
            "header ce_id: is given twice, with different values",
        ),
        ([("ce_type", b"order.created")], "schema_invalid", "header ce_id: is missing"),
        (
            [("ce_specversion", b"0.3"), ("ce_id", b"e-1")],
            "schema_invalid",
            "header ce_specversion: must be 1.0, the version of CloudEvents, got the string '0.3'",
        ),
        (
            [("ce_id", b"e-1"), ("ce_type", b"order.deleted")],
            "unknown_type",
            (
                "header ce_type: the string 'order.deleted' does not belong on topic order.created; "
                "expected 'order.created', alone or behind a prefix such as 'com.example.order.created'"
            ),
        ),
        (
            [("content-type", b"application/cloudevents-batch+json")],
            "decode_error",
            (
                "header content-type: must be application/cloudevents+json, one event per record, "
                "got the string 'application/cloudevents-batch+json'"
            ),
        ),
    ],
)
def test_headers(headers: list[Header], reason: str, message: str) -> None:
    """A header that is needed and cannot be read is named."""
    violation = refuse("order.created", DATA, headers)
    assert (reason, message) == (violation.reason, violation.message)


@pytest.mark.parametrize(
    ("body", "reason", "message"),
    [
        ({"id": "e-1"}, "schema_invalid", "data: must be an object, got null"),
        (
            {"id": "e-1", "data": "{}"},
            "schema_invalid",
            "data: must be an object, got the string '{}'",
        ),
        (
            {"id": "e-1", "data": {"order_id": "o", "items": [{"product_id": "m", "quantity": 0}]}},
            "schema_invalid",
            "data.items[0].quantity: must be at least 1, got 0",
        ),
        ({"id": "e-1", "data_base64": "?"}, "decode_error", "data_base64: must be base64, got the string '?'"),
        ({"id": "e-1", "data_base64": 5}, "decode_error", "data_base64: must be base64, got 5"),
        (
            {"id": "e-1", "data_base64": "W10="},
            "schema_invalid",
            "data_base64: the body must be a JSON object, got a list of 0",
        ),
        (
            {"id": "e-1", "specversion": 1.0},
            "schema_invalid",
            "specversion: must be 1.0, the version of CloudEvents, got 1.0",
        ),
    ],
)
def test_structured_bodies(body: dict[str, Any], reason: str, message: str) -> None:
    """Paths inside the data begin with `data`."""
    violation = refuse("order.created", orjson.dumps(body), CE_JSON)
    assert (reason, message) == (violation.reason, violation.message)


def test_a_structured_event_without_its_header_is_recognised() -> None:
    """Whoever pipes a CloudEvent into kcat is told the one header that is missing."""
    violation = refuse("order.created", orjson.dumps({"specversion": "1.0", "id": "e", "data": {}}))
    expected = (
        "the body looks like a structured CloudEvent: send it with the header "
        "content-type: application/cloudevents+json"
    )
    assert expected == violation.message


def test_the_identity_is_told_as_far_as_it_could_be_read() -> None:
    """A dead letter names its event even when the body is broken."""
    headers: list[Header] = [("ce_id", b"e-9"), ("ce_source", b"\xff"), ("ce_type", b"x.order.created")]
    violation = refuse("order.created", b"{", headers)
    assert (violation.event_id, violation.source, violation.event_type) == ("e-9", None, "x.order.created")
    violation = refuse_order(items=[], source="/shop", event_type="order.created")
    assert (violation.event_id, violation.source, violation.event_type) == ("e-1", "/shop", "order.created")
    assert refuse_order(event_id="e" * 300).event_id is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "needs an operation with its quantity and reason, or a low_stock_threshold"),
        ({"operation": "ADD", "reason": "r"}, "operation ADD needs a quantity"),
        ({"operation": "ADD", "quantity": 1}, "operation ADD needs a reason"),
        ({"operation": "ADD", "quantity": 1, "reason": ""}, "operation ADD needs a reason"),
        (
            {"operation": "SUBTRACT", "quantity": 0, "reason": "r"},
            "operation SUBTRACT needs a quantity of at least 1, got 0",
        ),
        ({"quantity": 1}, "quantity needs an operation: ADD, SUBTRACT or SET"),
        (
            {"operation": "ADD", "quantity": 1, "reason": "r", "expected_version": 1},
            "expected_version goes with operation SET only",
        ),
        ({"low_stock_threshold": 1, "expected_version": 1}, "expected_version goes with operation SET only"),
        (
            {"operation": "DROP", "quantity": 1, "reason": "r"},
            "operation: must be 'ADD', 'SUBTRACT' or 'SET', got the string 'DROP'",
        ),
        ({"low_stock_threshold": -1}, "low_stock_threshold: must be at least 0, got -1"),
    ],
)
def test_half_an_adjustment(body: dict[str, Any], message: str) -> None:
    """The other half is not guessed."""
    full = {"event_id": "e", "occurred_at": "2026-03-01T10:15:30Z", "product_id": "m", **body}
    violation = refuse("inventory.adjustment", orjson.dumps(full))
    assert ("schema_invalid", message) == (violation.reason, violation.message)


@pytest.mark.parametrize(
    "body",
    [
        {"operation": "SET", "quantity": 0, "reason": "gone"},
        {"operation": "SET", "quantity": 5, "reason": "counted", "expected_version": 0},
        {"operation": "ADD", "quantity": 1, "reason": "found one", "low_stock_threshold": 0},
        {"low_stock_threshold": 1_000_000},
    ],
)
def test_a_whole_adjustment(body: dict[str, Any]) -> None:
    """Stock, threshold or both."""
    full = {"event_id": "e", "occurred_at": "2026-03-01T10:15:30Z", "product_id": "m", **body}
    assert decode("inventory.adjustment", orjson.dumps(full), [], NOON).topic == "inventory.adjustment"


@pytest.mark.parametrize("value", ["false", 0, 1, None])
def test_restock_is_a_boolean(value: object) -> None:
    """Damaged goods do not go back on the shelf because of a string."""
    body = {**ORDER, "refund_id": "r", "restock": value}
    violation = refuse("payment.refunded", orjson.dumps(body))
    assert violation.message.startswith("restock: must be true or false, got ")
