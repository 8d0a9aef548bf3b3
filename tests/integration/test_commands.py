"""Commands against real servers: topics, publishing a history, looking at dead letters."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiokafka import AIOKafkaConsumer

from dev.servers.kafka import Broker
from schemas.envelope import Event, decode
from schemas.topics import TOPICS_IN
from storage.database import connect
from storage.dead_letters import DeadLetter, DeadLetterReason, StoredRecord, append_dead_letters

HISTORY = """InvoiceNo,StockCode,Quantity,InvoiceDate,CustomerID
1,a,2,2010-12-01T08:00:00Z,9
1,b,1,2010-12-01T08:00:00Z,9
2,a,3,2010-12-01T09:00:00Z,8
C3,a,-1,2010-12-01T10:00:00Z,9
C4,a,-3,2010-12-01T11:00:00Z,8
5,b,-1,2010-12-01T12:00:00Z,
"""
FAILED_AT = datetime(2026, 11, 22, 15, 0, tzinfo=UTC)
BOUND_SECONDS = 60

Inventory = Callable[..., Coroutine[Any, Any, tuple[int, str, str]]]


class Received(list[Event]):
    """The events that were read so far, in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.more = asyncio.Event()

    async def until(self, count: int) -> None:
        """Wait, with a bound, until so many events are there."""
        async with asyncio.timeout(BOUND_SECONDS):
            while len(self) < count:
                self.more.clear()
                await self.more.wait()


@pytest.fixture
def inventory() -> Inventory:
    """Run the command as a user does and return its exit code, output and errors."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INVENTORY_")}

    async def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "inventory",
            *arguments,
            env={**clean, **variables},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(BOUND_SECONDS):
            output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    return run


@pytest.fixture
def history(tmp_path: Path) -> str:
    """A small shop's morning: two sales, a refund, a cancellation and a write-off."""
    path = tmp_path / "history.csv"
    path.write_text(HISTORY)
    return str(path)


@pytest.fixture
async def worker(kafka: Broker, topics: str, group_id: str) -> AsyncIterator[Received]:
    """Stands in for the worker: decodes what is published, in the order read, and commits what it has read."""
    consumer = AIOKafkaConsumer(
        *(topics + topic for topic in TOPICS_IN),
        bootstrap_servers=kafka.bootstrap_servers,
        group_id=group_id,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    events = Received()

    async def consume() -> None:
        while True:
            batch = await consumer.getmany(timeout_ms=100)
            for record in (record for records in batch.values() for record in records):
                topic = record.topic.removeprefix(topics)
                event = decode(topic, record.value, record.headers, record.timestamp)
                assert record.key.decode() == getattr(event.data, TOPICS_IN[topic].key_field)
                events.append(event)
            if batch:
                await consumer.commit()
                events.more.set()

    await consumer.start()
    task = asyncio.create_task(consume())
    yield events
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await consumer.stop()


def _environment(kafka: Broker, prefix: str, group: str) -> dict[str, str]:
    return {
        "INVENTORY_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "INVENTORY_KAFKA_TOPIC_PREFIX": prefix,
        "INVENTORY_KAFKA_GROUP_ID": group,
    }


async def test_topics_are_created_once(real_kafka: Broker, topic_prefix: str, inventory: Inventory) -> None:
    """The first call creates all, the second finds them and warns that another count has no effect."""
    variables = _environment(real_kafka, topic_prefix, "g") | {"INVENTORY_KAFKA_TOPIC_PARTITIONS": "2"}
    code, output, errors = await inventory("topics", "create", "--json", **variables)
    assert (code, errors) == (0, "")
    assert {(row["outcome"], row["partitions"]) for row in json.loads(output)} == {("created", 2)}
    variables["INVENTORY_KAFKA_TOPIC_PARTITIONS"] = "4"
    code, output, errors = await inventory("topics", "create", "--json", **variables)
    assert code == 0
    assert {(row["outcome"], row["partitions"]) for row in json.loads(output)} == {("exists", 2)}
    assert errors.startswith("warning: the topics in have 2 partitions each, INVENTORY_KAFKA_TOPIC_PARTITIONS says 4")


async def test_a_refused_topic_is_one_line(real_kafka: Broker, topic_prefix: str, inventory: Inventory) -> None:
    """More copies than brokers: Kafka's own reason, code 2, no traceback."""
    variables = _environment(real_kafka, topic_prefix, "g") | {"INVENTORY_KAFKA_REPLICATION_FACTOR": "50"}
    code, output, errors = await inventory("topics", "create", **variables)
    assert (code, output, len(errors.splitlines())) == (2, "", 1)
    assert errors.startswith(f"inventory: Kafka did not create {topic_prefix}")


async def test_publishing_without_topics_says_what_to_run(
    real_kafka: Broker, topic_prefix: str, inventory: Inventory, history: str
) -> None:
    """Nothing is published into topics that a broker would make up with other settings."""
    code, _, errors = await inventory("publish", history, **_environment(real_kafka, topic_prefix, "g"))
    assert (code, len(errors.splitlines())) == (2, 1)
    assert "run `inventory topics create` first" in errors


async def test_a_history_is_published_after_its_products(
    kafka: Broker, topics: str, group_id: str, worker: Received, inventory: Inventory, history: str
) -> None:
    """The worker has read and committed every product before the first order is there."""
    code, output, errors = await inventory("publish", history, "--json", **_environment(kafka, topics, group_id))
    assert (code, errors.splitlines()[-1]) == (0, "rows: 6 of 6")
    summary = json.loads(output)
    await worker.until(summary["events"])
    assert sorted(event.topic for event in worker) == [
        "cart.updated",
        "cart.updated",
        "inventory.adjustment",
        "order.cancelled",
        "order.created",
        "order.created",
        "payment.refunded",
        "payment.succeeded",
        "payment.succeeded",
        "product.created",
        "product.created",
    ]
    assert [event.topic for event in worker[:2]] == ["product.created", "product.created"]
    assert (summary["orders"], summary["refunds"], summary["cancellations"], summary["adjustments"]) == (2, 1, 1, 1)


async def test_a_cart_is_older_than_its_order(
    kafka: Broker, topics: str, group_id: str, worker: Received, inventory: Inventory, history: str
) -> None:
    """No two events share a moment, so a cart's update never counts as coming after its order."""
    before = datetime.now(UTC)
    await inventory("publish", history, "--no-wait", **_environment(kafka, topics, group_id))
    await worker.until(11)
    moments = {(event.topic, getattr(event.data, "cart_id", event.id)): event.occurred_at for event in worker}
    assert len(set(moments.values())) == 11
    assert moments["cart.updated", "cart-1"] < moments["order.created", "cart-1"]
    assert min(moments.values()) >= before


async def test_a_history_published_twice_has_the_same_ids(
    kafka: Broker, topics: str, group_id: str, worker: Received, inventory: Inventory, history: str
) -> None:
    """The second time every event is one that the worker knows, with the same content."""
    for _ in range(2):
        await inventory("publish", history, **_environment(kafka, topics, group_id))
    await worker.until(22)
    assert len({(event.source, event.id, event.digest) for event in worker}) == 11


async def test_publishing_without_a_worker_stops_after_the_wait(
    kafka: Broker, topics: str, group_id: str, inventory: Inventory, history: str
) -> None:
    """The message names the group and the ways out; no order was published."""
    variables = _environment(kafka, topics, group_id)
    code, output, errors = await inventory("publish", history, "--wait-timeout", "0.5", **variables)
    assert (code, output) == (2, "")
    assert f"the workers of group {group_id} have not read the products after 0.5 s" in errors.splitlines()[-1]


@pytest.fixture
async def dead_letters(database_url: str) -> dict[str, str]:
    """Three dead letters, two of which failed alike; the value is the environment that reaches them."""

    def dead_letter(number: int, topic: str, value: bytes | None, reason: DeadLetterReason) -> DeadLetter:
        headers = [("content-type", b"application/json"), ("binary", b"\xff\x00"), ("empty", None)]
        return DeadLetter(
            id=UUID(int=number << 100),
            record=StoredRecord(topic, 1, number, b"key", value, headers, FAILED_AT),
            reason=reason,
            message=f"what is wrong with {number}",
            exception_class="ContractViolation",
            stacktrace="Traceback:\n  line \x1b[31m",
            fingerprint=reason,
            event_id=f"event-{number}",
            event_type=topic,
            source="shop",
            delivery_count=1,
            redrive_count=0,
            failed_at=FAILED_AT.replace(hour=number),
        )

    connection = await connect(database_url)
    await append_dead_letters(
        connection,
        [
            dead_letter(1, "order.created", b'{"order_id": "\xc3\xa9"}', DeadLetterReason.SCHEMA_INVALID),
            dead_letter(2, "cart.updated", b"\xff\xfe", DeadLetterReason.DECODE_ERROR),
            dead_letter(3, "order.created", None, DeadLetterReason.SCHEMA_INVALID),
        ],
    )
    await connection.close()
    return {"INVENTORY_DATABASE_URL": database_url}


@pytest.mark.parametrize(
    ("arguments", "offsets"),
    [
        ((), [3, 2, 1]),
        (("--limit", "1"), [3]),
        (("--topic", "order.created"), [3, 1]),
        (("--reason", "decode_error"), [2]),
        (("--since", "2026-11-22T02:00Z"), [3, 2]),
        (("--fingerprint", "schema_invalid", "--since", "2026-11-22T02:00Z"), [3]),
    ],
)
async def test_dead_letters_are_listed_and_filtered(
    dead_letters: dict[str, str], inventory: Inventory, arguments: tuple[str, ...], offsets: list[int]
) -> None:
    """The newest come first; every filter leaves the others out, and filters add up."""
    code, output, _ = await inventory("dlq", "list", "--json", *arguments, **dead_letters)
    assert (code, [row["offset"] for row in json.loads(output)]) == (0, offsets)


async def test_a_cut_list_says_so(dead_letters: dict[str, str], inventory: Inventory) -> None:
    """Below the table stands how many there are in all."""
    _, output, _ = await inventory("dlq", "list", "--limit", "2", **dead_letters)
    assert output.splitlines()[-1].startswith("2 of 3; --limit shows more")


async def test_dead_letters_that_failed_alike_are_counted(dead_letters: dict[str, str], inventory: Inventory) -> None:
    """One line per group, the largest first, with the newest of it to look at."""
    _, output, _ = await inventory("dlq", "list", "--group", "--json", **dead_letters)
    groups = [(row["count"], row["reason"], row["topic"], row["newest"], row["message"]) for row in json.loads(output)]
    assert groups == [
        (2, "schema_invalid", "order.created", str(UUID(int=3 << 100)), "what is wrong with 3"),
        (1, "decode_error", "cart.updated", str(UUID(int=2 << 100)), "what is wrong with 2"),
    ]


async def test_a_dead_letter_is_shown_with_its_bytes(dead_letters: dict[str, str], inventory: Inventory) -> None:
    """UTF-8 as text, other bytes as hexadecimal digits, null as null; nothing is lost."""
    shown = {}
    for number in (1, 2, 3):
        _, output, _ = await inventory("dlq", "show", str(UUID(int=number << 100)), "--json", **dead_letters)
        shown[number] = json.loads(output)
    assert [shown[number]["value"] for number in (1, 2, 3)] == [
        {"encoding": "utf-8", "content": '{"order_id": "é"}'},
        {"encoding": "hex", "content": "fffe"},
        {"encoding": "null", "content": None},
    ]
    assert shown[1]["headers"] == [
        {"name": "content-type", "encoding": "utf-8", "content": "application/json"},
        {"name": "binary", "encoding": "hex", "content": base64.b16encode(b"\xff\x00").decode().lower()},
        {"name": "empty", "encoding": "null", "content": None},
    ]


async def test_a_dead_letter_cannot_command_the_terminal(dead_letters: dict[str, str], inventory: Inventory) -> None:
    """Control characters of a record or a trace are shown, not obeyed."""
    code, output, _ = await inventory("dlq", "show", str(UUID(int=1 << 100)), **dead_letters)
    assert (code, "\x1b" in output, r"\x1b[31m" in output) == (0, False, True)
    assert "what is wrong with 1" in output


@pytest.mark.parametrize(
    ("beginning", "message"),
    [
        ("ffff", "there is no dead letter ffff"),
        ("0000", "several dead letters begin with 0000"),
    ],
)
async def test_an_id_that_names_no_single_dead_letter_is_one_line(
    dead_letters: dict[str, str], inventory: Inventory, beginning: str, message: str
) -> None:
    """None and several are told apart."""
    code, _, errors = await inventory("dlq", "show", beginning, **dead_letters)
    assert (code, len(errors.splitlines())) == (2, 1)
    assert message in errors


async def test_a_database_that_was_not_migrated_is_one_line(blank_database_url: str, inventory: Inventory) -> None:
    """The line says which command to run."""
    code, _, errors = await inventory("dlq", "list", INVENTORY_DATABASE_URL=blank_database_url)
    assert (code, len(errors.splitlines())) == (2, 1)
    assert "run `inventory migrate` first" in errors
