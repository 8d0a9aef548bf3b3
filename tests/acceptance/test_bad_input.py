"""Bad records through real Kafka, all kinds in one go among good ones, and a program that is set up wrongly."""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dev.records import TOPICS_IN, ConsumedRecord
from dev.servers.kafka import Broker
from dev.servers.process import LOOPBACK
from tests.acceptance.deployment import Deployment, Finished, Headers, clean_environment, inventory

NOW = datetime.now(UTC).isoformat()
STOCK = 1000
GOOD_UNITS = 2
# A record's time need not be the time of sending; the dead letter keeps it to the millisecond.
TIMESTAMP_MS = int(time.time() * 1000) - 12_345
NOISE: Headers = [("trace", b"\x00\xff\xfe"), ("null", None), ("empty", b""), ("trace", b"again")]


class Bad(NamedTuple):
    """A record that cannot be used: why, and words that its message has to contain."""

    name: str
    topic: str
    value: bytes | None
    reason: str
    says: tuple[str, ...]
    headers: Headers = NOISE
    key: bytes | None = b"\x80key\x00"


def _json(**data: object) -> bytes:
    return json.dumps({"occurred_at": NOW, **data}).encode()


def _order(name: str, items: object, **more: object) -> bytes:
    return _json(event_id=name, order_id=name, items=items, **more)


def _line(quantity: object) -> list[dict[str, object]]:
    return [{"product_id": "tea", "quantity": quantity}]


def _cloud_event(**changes: bytes | None) -> Headers:
    attributes = {"ce_id": b"bad-ce", "ce_source": b"/shop", "ce_type": b"order.created", "ce_specversion": b"1.0"}
    return list({**attributes, **changes}.items())


BAD = (
    Bad("broken JSON", "order.created", b'{"event_id": "b1", ', "decode_error", ("not JSON",)),
    Bad("no UTF-8", "cart.updated", b"\xff\xfe\x00binary", "decode_error", ("not JSON",)),
    Bad("not a number in JSON", "order.created", _order("b2", _line(float("nan"))), "decode_error", ("not JSON",)),
    Bad("too deep", "order.created", b"[" * 100_000, "decode_error", ("not JSON",)),
    Bad("a list", "payment.succeeded", b"[1, 2]", "schema_invalid", ("JSON object", "a list of 2")),
    Bad("a string", "payment.refunded", b'"hello"', "schema_invalid", ("JSON object", "hello")),
    Bad("empty", "order.cancelled", b"", "decode_error", ("empty",)),
    Bad("a tombstone", "order.created", None, "decode_error", ("tombstone",)),
    Bad("a tombstone without key", "product.created", None, "decode_error", ("tombstone",), NOISE, None),
    Bad(
        "schema-registry framed",
        "order.created",
        b"\x00\x00\x00\x01\x02" + b"\x0cavro",
        "decode_error",
        ("schema-registry framed", "schema id 258"),
    ),
    Bad("2 MiB", "cart.updated", b'"' + b"x" * (2 * 1024 * 1024) + b'"', "schema_invalid", ("1048576", "2097154")),
    Bad("quantity as text", "order.created", _order("b3", _line("3")), "schema_invalid", ("items[0].quantity", "'3'")),
    Bad("quantity true", "order.created", _order("b4", _line(True)), "schema_invalid", ("items[0].quantity", "true")),  # noqa: FBT003
    Bad("quantity 1.0", "order.created", _order("b5", _line(1.0)), "schema_invalid", ("items[0].quantity", "1.0")),
    Bad("quantity null", "order.created", _order("b6", _line(None)), "schema_invalid", ("items[0].quantity", "null")),
    Bad("quantity -1", "order.created", _order("b7", _line(-1)), "schema_invalid", ("items[0].quantity", "-1")),
    Bad("quantity 0", "order.created", _order("b8", _line(0)), "schema_invalid", ("items[0].quantity", "got 0")),
    Bad("1,000,001 units", "cart.updated", _json(event_id="b9", cart_id="b9", items=_line(1_000_001)),
        "schema_invalid", ("items[0].quantity", "1000001")),
    Bad("10^30 units", "order.created", _order("b10", _line(10**30)), "schema_invalid",
        ("items[0].quantity", "integer")),
    Bad("1,001 lines", "order.created", _order("b11", [{"product_id": f"p{n}", "quantity": 1} for n in range(1001)]),
        "schema_invalid", ("items", "1000 lines", "1001")),
    Bad("no lines", "order.created", _order("b13", []), "schema_invalid", ("items", "at least one line")),
    Bad("lines of text", "order.created", _order("b14", "tea"), "schema_invalid", ("items", "a list")),
    Bad("nothing but id and time", "order.created", _json(event_id="b15"), "schema_invalid",
        ("order_id: is missing", "items: is missing")),
    Bad("no id", "payment.succeeded", _json(order_id="b16"), "schema_invalid", ("event_id: is missing",)),
    Bad("no time", "payment.succeeded", b'{"event_id": "b17", "order_id": "b17"}', "schema_invalid",
        ("occurred_at: is missing",)),
    Bad("a time without offset", "payment.succeeded",
        b'{"event_id": "b18", "order_id": "b18", "occurred_at": "2026-03-01T10:15:30"}', "schema_invalid",
        ("occurred_at", "offset")),
    Bad("a time far ahead", "payment.succeeded",
        b'{"event_id": "b19", "order_id": "b19", "occurred_at": "2999-01-01T00:00:00Z"}', "schema_invalid",
        ("occurred_at", "24 hours ahead")),
    Bad("an id too long", "payment.succeeded", _json(event_id="x" * 257, order_id="b20"), "schema_invalid",
        ("event_id", "256", "257")),
    Bad("NUL in an id", "order.cancelled", _json(event_id="b21", order_id="b\x0021"), "schema_invalid",
        ("order_id", "U+0000")),
    Bad("negative stock", "product.created", _json(event_id="b22", product_id="b22", initial_quantity=-5),
        "schema_invalid", ("initial_quantity", "-5")),
    Bad("an unknown operation", "inventory.adjustment",
        _json(event_id="b23", product_id="tea", operation="DOUBLE", quantity=2, reason="why not"), "schema_invalid",
        ("operation", "DOUBLE")),
    Bad("an adjustment of nothing", "inventory.adjustment", _json(event_id="b24", product_id="tea", reason="none"),
        "schema_invalid", ()),
    Bad("a refund without id", "payment.refunded", _json(event_id="b25", order_id="good-0", items=_line(1)),
        "schema_invalid", ("refund_id: is missing",)),
    Bad("an unknown type", "order.created", _order("b26", _line(1), event_type="order.shipped"), "unknown_type",
        ("order.shipped", "order.created")),
    Bad("another topic's type", "order.created", _order("b27", _line(1)), "unknown_type", ("payment.succeeded",),
        _cloud_event(ce_type=b"com.shop.payment.succeeded")),
    Bad("a null id header", "order.created", _order("b28", _line(1)), "decode_error", ("ce_id", "null"),
        _cloud_event(ce_id=None)),
    Bad("a binary type header", "order.created", _order("b29", _line(1)), "decode_error", ("ce_type", "UTF-8"),
        _cloud_event(ce_type=b"\xff\xfeorder.created")),
    Bad("a null time header", "order.created", _order("b30", _line(1)), "decode_error", ("ce_time", "null"),
        _cloud_event(ce_time=None)),
    Bad("a header given twice", "order.created", _order("b31", _line(1)), "decode_error", ("ce_id", "twice"),
        [*_cloud_event(), ("ce_id", b"other")]),
    Bad("a structured CloudEvent without content type", "order.created",
        b'{"specversion": "1.0", "id": "b32", "source": "/shop", "type": "order.created", "data": {}}',
        "schema_invalid", ("content-type: application/cloudevents+json",)),
    Bad("a batch of CloudEvents", "order.created", b"[]", "decode_error", ("one event per record",),
        [("content-type", b"application/cloudevents-batch+json")]),
    # These follow good ones with the same key, and so stand behind them in the same partition.
    Bad("an id reused", "order.created", _order("good-0", _line(GOOD_UNITS + 1)), "id_reused", ("other content",),
        NOISE, b"good-0"),
    Bad("an order placed again with other lines", "order.created",
        _json(event_id="again", order_id="good-1", items=_line(GOOD_UNITS + 1)), "conflict", ("other lines",),
        NOISE, b"good-1"),
)  # fmt: skip


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on which nobody answers, kept taken so that nobody comes."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        yield int(taken.getsockname()[1])


def test_every_kind_of_bad_record_is_dead_lettered_alone(deployment: Deployment) -> None:
    """Each lands in its topic's dead letters, whole and with its reason; the good ones beside them are applied."""
    goods = _publish(deployment)
    worker = deployment.start_worker().wait_ready()
    deployment.settle(*TOPICS_IN)

    dead_letters = deployment.read(*(f"{topic}.dlq" for topic in TOPICS_IN))
    originals = {(message.topic, message.partition, message.offset): message for message in deployment.read(*TOPICS_IN)}
    found = {}
    for dead_letter in dead_letters:
        headers = dict(dead_letter.headers)
        place = (_text(headers, "x-original-topic"), _text(headers, "__dlq.errors.partition"))
        topic, partition = place[0].removeprefix(deployment.prefix), int(place[1])
        original = originals[topic, partition, int(_text(headers, "__dlq.errors.offset"))]
        _check_whole(dead_letter, original)
        assert (topic, original.value, original.key) not in found, "dead-lettered twice"
        found[topic, original.value, original.key] = (
            _text(headers, "x-dlq-reason"),
            _text(headers, "__dlq.errors.message"),
        )
    wrong = {
        bad.name: reported
        for bad in BAD
        if not _fits(bad, reported := found.pop((bad.topic, bad.value, bad.key), ("nothing", "not dead-lettered")))
    }
    assert wrong == {}
    assert found == {}, "good records were dead-lettered"

    _check_good_ones(deployment, goods)
    # Nothing stopped: the worker takes what comes now.
    deployment_stock = _on_hand(deployment)
    _send(deployment, "inventory.adjustment", b"tea", _json(
        event_id="later", product_id="tea", operation="ADD", quantity=7, reason="still there"))  # fmt: skip
    deployment.settle("inventory.adjustment")
    assert deployment_stock + 7 == _on_hand(deployment)
    assert worker.get("/livez") == (200, "ok\n")
    assert worker.get("/readyz") == (200, "ok\n")
    assert "critical" not in {json.loads(line)["level"] for line in worker.log().splitlines() if line.startswith("{")}
    listed = json.loads(deployment.must("dlq", "list", "--json", "--limit", "1000"))
    assert len(BAD) == len(listed)
    assert worker.stop() == 0


def _publish(deployment: Deployment) -> int:
    """Publish everything, each bad record between two good ones, before a worker is there; returns how many are good.

    So that most of it comes to the worker in the same batches.
    """
    _send(deployment, "product.created", b"tea", _json(event_id="tea", product_id="tea", initial_quantity=STOCK))
    worker = deployment.start_worker().wait_ready()
    deployment.settle("product.created")
    assert worker.stop() == 0
    producer = deployment.producer()
    goods = 0
    for bad in BAD:
        for _ in range(2):
            name = f"good-{goods}"
            _put(producer, deployment, "order.created", name.encode(), _order(name, _line(GOOD_UNITS)), NOISE)
            goods += 1
        _put(producer, deployment, bad.topic, bad.key, bad.value, bad.headers)
    for number in range(goods):
        name = f"good-{number}"
        _put(producer, deployment, "payment.succeeded", name.encode(), _json(event_id=name, order_id=name), NOISE)
    assert producer.flush(30) == 0
    return goods


def _check_whole(dead_letter: ConsumedRecord, original: ConsumedRecord) -> None:
    """Key, value, headers, time and place are the original's, and what was added stands behind them."""
    assert (original.key, original.value, original.timestamp) == (
        dead_letter.key,
        dead_letter.value,
        dead_letter.timestamp,
    )
    assert original.headers == dead_letter.headers[: len(original.headers)]
    assert f"{original.topic}.dlq" == dead_letter.topic
    assert original.partition == dead_letter.partition
    added = dict(dead_letter.headers[len(original.headers) :])
    assert all(value is not None and value.decode() for value in added.values())
    assert {"x-dlq-id", "x-dlq-failed-at", "x-dlq-fingerprint", "x-dlq-version", "__dlq.errors.group"} <= added.keys()


def _fits(bad: Bad, reported: tuple[str, str]) -> bool:
    reason, message = reported
    return reason == bad.reason and all(words in message for words in bad.says)


def _check_good_ones(deployment: Deployment, goods: int) -> None:
    """Every good order is deducted once, with what it asked for, and the stock is what that leaves."""
    rows = deployment.query(
        "SELECT reference_id, sum(quantity) FROM inventory_transactions WHERE type = 'OUT' GROUP BY 1"
    )
    assert {f"good-{number}": GOOD_UNITS for number in range(goods)} == {row[0]: row[1] for row in rows}
    assert STOCK - GOOD_UNITS * goods == _on_hand(deployment)
    assert [("tea",)] == [tuple(row) for row in deployment.query("SELECT product_id FROM inventory")]


def _on_hand(deployment: Deployment) -> int:
    return int(deployment.value("SELECT on_hand FROM inventory WHERE product_id = 'tea'"))


def _text(headers: Mapping[str, bytes | None], name: str) -> str:
    value = headers[name]
    assert value is not None
    return value.decode()


def _send(deployment: Deployment, topic: str, key: bytes, value: bytes) -> None:
    producer = deployment.producer()
    _put(producer, deployment, topic, key, value, [])
    assert producer.flush(30) == 0


def _put(
    producer: Any, deployment: Deployment, topic: str, key: bytes | None, value: bytes | None, headers: Headers
) -> None:
    producer.produce(deployment.prefix + topic, value=value, key=key, headers=headers, timestamp=TIMESTAMP_MS)
    producer.poll(0)


# --- set up wrongly -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            {
                "INVENTORY_BATCH_MAX_RECORDS": "many",
                "INVENTORY_CART_RESERVATION_TTL": "soon",
                "INVENTORY_LATE_PAYMENT_POLICY": "hope",
                "INVENTORY_HTTP_PORT": "99999",
            },
            [
                "INVENTORY_BATCH_MAX_RECORDS",
                "INVENTORY_CART_RESERVATION_TTL",
                "INVENTORY_LATE_PAYMENT_POLICY",
                "INVENTORY_HTTP_PORT",
            ],
        ),
        ({"INVENTORY_DATABASE_URL": "mysql://localhost/inventory"}, ["INVENTORY_DATABASE_URL"]),
        ({"INVENTORY_KAFKA_BOOTSTRAP_SERVERS": "localhost:port"}, ["INVENTORY_KAFKA_BOOTSTRAP_SERVERS"]),
        (
            {"INVENTORY_KAFKA_SESSION_TIMEOUT_MS": "6000", "INVENTORY_KAFKA_HEARTBEAT_INTERVAL_MS": "6000"},
            ["INVENTORY_KAFKA_HEARTBEAT_INTERVAL_MS"],
        ),
    ],
)
def test_wrong_settings_are_named(variables: dict[str, str], says: list[str]) -> None:
    """One line per wrong setting says which one and what is wrong with it."""
    finished = inventory("run", environment=clean_environment(**variables))
    lines = _operator_lines(finished)
    assert len(says) == len(lines), lines
    assert all(any(name in line for line in lines) for name in says), lines


@pytest.mark.parametrize("arguments", [["run"], ["dlq", "list"], ["migrate"]])
def test_postgresql_that_does_not_answer_is_named(arguments: list[str], real_kafka: Broker, silent_port: int) -> None:
    """The line says where PostgreSQL was looked for and which setting says so, without the password."""
    finished = inventory(
        *arguments,
        environment=clean_environment(
            INVENTORY_DATABASE_URL=f"postgresql://shop:secret@{LOOPBACK}:{silent_port}/inventory",
            INVENTORY_KAFKA_BOOTSTRAP_SERVERS=real_kafka.bootstrap_servers,
        ),
    )
    [line] = _operator_lines(finished)
    assert f"{LOOPBACK}:{silent_port}" in line
    assert "INVENTORY_DATABASE_URL" in line
    assert "secret" not in finished.errors + finished.output


@pytest.mark.parametrize("arguments", [["run"], ["topics", "create"], ["publish", "FILE"]])
def test_kafka_that_does_not_answer_is_named(
    arguments: list[str], database_url: str, silent_port: int, tmp_path: Path
) -> None:
    """The line says where Kafka was looked for and which setting says so."""
    file = tmp_path / "history.csv"
    file.write_text("InvoiceNo,StockCode,Quantity,InvoiceDate,CustomerID\n1,tea,1,2010-12-01T08:00:00Z,\n")
    finished = inventory(
        *(str(file) if argument == "FILE" else argument for argument in arguments),
        environment=clean_environment(
            INVENTORY_DATABASE_URL=database_url, INVENTORY_KAFKA_BOOTSTRAP_SERVERS=f"{LOOPBACK}:{silent_port}"
        ),
    )
    [line] = _operator_lines(finished)
    assert f"{LOOPBACK}:{silent_port}" in line
    assert "INVENTORY_KAFKA_BOOTSTRAP_SERVERS" in line


@pytest.mark.parametrize("arguments", [["run"], ["audit"], ["stock", "show", "tea"]])
def test_a_database_that_was_not_migrated_is_named(
    arguments: list[str], real_kafka: Broker, blank_database_url: str
) -> None:
    """The line says which command mends it."""
    finished = inventory(
        *arguments,
        environment=clean_environment(
            INVENTORY_DATABASE_URL=blank_database_url, INVENTORY_KAFKA_BOOTSTRAP_SERVERS=real_kafka.bootstrap_servers
        ),
    )
    [line] = _operator_lines(finished)
    assert "`inventory migrate`" in line


def test_topics_that_were_not_created_are_named(real_kafka: Broker, database_url: str) -> None:
    """The line says which command mends it."""
    finished = inventory(
        "run",
        environment=clean_environment(
            INVENTORY_DATABASE_URL=database_url,
            INVENTORY_KAFKA_BOOTSTRAP_SERVERS=real_kafka.bootstrap_servers,
            INVENTORY_KAFKA_TOPIC_PREFIX=f"none{os.getpid()}.",
        ),
    )
    [line] = _operator_lines(finished)
    assert "`inventory topics create`" in line
    assert "order.created" in line


def _operator_lines(finished: Finished) -> list[str]:
    """Return what the operator reads; fail unless the program left with 2, and without a traceback or other noise."""
    assert finished.code == 2, finished
    assert "Traceback" not in finished.errors
    assert finished.output == ""
    lines = finished.errors.splitlines()
    assert all(line.startswith("inventory: ") for line in lines), lines
    return lines
