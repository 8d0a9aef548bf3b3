"""The evidence of a run: every record of every topic, and every row that other programs may query.

Read with a plain consumer and plain SQL; nothing here imports the worker's packages.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from confluent_kafka import Consumer, TopicPartition

from dev.chaos.generator import Sent
from dev.records import EVENT_TOPICS_OUT, TOPICS_IN, ConsumedRecord

POLL_SECONDS = 0.2
MAX_SILENT_POLLS = 150
RECORDS_AT_ONCE = 5000
ADMIN_TIMEOUT_SECONDS = 10.0

TABLES: Mapping[str, str] = {
    "inventory": "SELECT product_id, on_hand, reserved, available, low_stock_threshold, stock_status FROM inventory",
    "ledger": "SELECT product_id, sequence, type, quantity, on_hand_before, on_hand_after, reserved_before,"
    " reserved_after, reference_type, reference_id, event_id FROM inventory_transactions ORDER BY product_id, sequence",
    "orders": "SELECT order_id, status, lines::text AS lines, waiting::text AS waiting FROM orders",
    "carts": "SELECT cart_id, status, held::text AS held FROM carts",
    "inbox": "SELECT event_id, source, outcome, reason FROM inbox",
    "parked": "SELECT event_id, source, order_id FROM parked_events",
    "outbox": "SELECT id::text AS id, aggregatetype AS topic, aggregateid AS key, payload"
    " FROM outbox ORDER BY position",
    "dead_letters": 'SELECT id::text AS id, topic, partition, "offset", key, value, reason, publish_error'
    " FROM dead_letters",
}

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The checker's whole input. `records` maps each topic to its records, ordered by partition and offset."""

    journal: Sequence[Sent]
    records: Mapping[str, Sequence[ConsumedRecord]]
    tables: Mapping[str, Sequence[Row]]


async def read_tables(url: str) -> dict[str, list[Row]]:
    """Read all tables in one snapshot."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return {
                name: [dict(row) for row in await connection.fetch(statement)] for name, statement in TABLES.items()
            }
    finally:
        await connection.close()


def read_topics(bootstrap_servers: str, prefix: str) -> dict[str, list[ConsumedRecord]]:
    """Read every topic in, topic out and dead letter topic from beginning to end."""
    names = [*TOPICS_IN, *EVENT_TOPICS_OUT, *(f"{topic}.dlq" for topic in TOPICS_IN)]
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"{prefix}checker",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    try:
        ends = _ends(consumer, [prefix + name for name in names])
        consumer.assign([TopicPartition(*place, 0) for place in ends])
        found = _read(consumer, prefix, ends)
    finally:
        consumer.close()
    return {name: sorted(found.get(name, []), key=lambda record: record.position) for name in names}


def _ends(consumer: Consumer, topics: Sequence[str]) -> dict[tuple[str, int], int]:
    """Return the end of every partition that is not empty."""
    ends: dict[tuple[str, int], int] = {}
    for topic in topics:
        metadata = consumer.list_topics(topic, timeout=ADMIN_TIMEOUT_SECONDS)
        for number in metadata.topics[topic].partitions:
            place = TopicPartition(topic, number)
            low, high = consumer.get_watermark_offsets(place, timeout=ADMIN_TIMEOUT_SECONDS)
            if high > low:
                ends[topic, number] = high
    return ends


def _read(consumer: Consumer, prefix: str, ends: dict[tuple[str, int], int]) -> dict[str, list[ConsumedRecord]]:
    found: dict[str, list[ConsumedRecord]] = {}
    left, silent = dict(ends), 0
    while left and silent < MAX_SILENT_POLLS:
        messages = consumer.consume(RECORDS_AT_ONCE, POLL_SECONDS)
        silent = 0 if messages else silent + 1
        for record in [_consumed(message, prefix) for message in messages if message.error() is None]:
            found.setdefault(record.topic, []).append(record)
            place = (prefix + record.topic, record.partition)
            if record.offset + 1 >= left.get(place, record.offset + 2):
                del left[place]
    if left:
        raise RuntimeError(f"could not read these partitions to their ends: {left}")
    return found


def _consumed(message: Any, prefix: str) -> ConsumedRecord:  # noqa: ANN401 - confluent_kafka's Message
    return ConsumedRecord(
        message.topic().removeprefix(prefix),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
    )


def read_event(record: ConsumedRecord) -> dict[str, Any] | None:
    """Return a record's event in the oracle's form, or None if it carries none.

    Implements the envelope only: structured or binary CloudEvents, or plain JSON; a missing source is the topic.
    The data is not validated.
    """
    headers = {name.lower(): value for name, value in record.headers}
    try:
        body = json.loads((record.value or b"").decode())
        if b"cloudevents" in (headers.get("content-type") or b""):
            return _event(record, body["id"], body.get("source"), body["time"], body["data"])
        if {"ce_id", "ce_source", "ce_type", "ce_specversion"} & headers.keys():
            id_, source, time = ((headers[name] or b"").decode() for name in ("ce_id", "ce_source", "ce_time"))
            return _event(record, id_, source, time, body)
        return _event(record, body["event_id"], body.get("source"), body["occurred_at"], body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _event(record: ConsumedRecord, id_: str, source: str | None, at: str, data: Any) -> dict[str, Any]:  # noqa: ANN401 - as read
    return {"topic": record.topic, "id": id_, "source": source or record.topic, "occurred_at": at, "data": data}
