"""Decoding: each raw record by itself, into an event with its command or into a dead letter."""

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from domain.commands import CausedCommand
from engine.dead_letters import build_dead_letter
from schemas.envelope import Event, decode
from schemas.errors import ContractViolation
from storage.dead_letters import DeadLetter, DeadLetterReason, StoredRecord
from workers.handlers import command_for

logger = logging.getLogger(__name__)


class KafkaRecord(Protocol):
    """What is read of a record; aiokafka's ConsumerRecord has it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class DecodedRecord(NamedTuple):
    """A record that carries a valid event, and the command that the event means."""

    record: StoredRecord
    event: Event
    command: CausedCommand


class InvalidRecord(NamedTuple):
    """A record that cannot be used: its dead letter."""

    dead_letter: DeadLetter


def read_records(records: Iterable[KafkaRecord], prefix: str, now: datetime) -> list[DecodedRecord | InvalidRecord]:
    """Decode and validate each record by itself; a bad one becomes a dead letter and harms no other."""
    now_ms = int(now.timestamp() * 1000)
    return [_read(record, prefix, now, now_ms) for record in records]


def _read(record: KafkaRecord, prefix: str, now: datetime, now_ms: int) -> DecodedRecord | InvalidRecord:
    timestamp = None if record.timestamp < 0 else _time(record.timestamp)
    stored = StoredRecord(
        record.topic.removeprefix(prefix),
        record.partition,
        record.offset,
        record.key,
        record.value,
        record.headers,
        timestamp,
    )
    try:
        event = decode(stored.topic, stored.value, stored.headers, record.timestamp, now_ms)
        return DecodedRecord(stored, event, command_for(event))
    except ContractViolation as violation:
        return InvalidRecord(
            build_dead_letter(
                stored,
                DeadLetterReason(violation.reason),
                violation.message,
                now,
                event_id=violation.event_id,
                event_type=violation.event_type,
                source=violation.source,
                error=violation,
            )
        )
    except Exception as bug:
        # A bug that one record triggers must not stop all others; if many records trigger it, the flood breaker trips.
        logger.exception(
            "A bug in this worker: a record could not be decoded and becomes a dead letter",
            extra={"topic": stored.topic, "partition": stored.partition, "offset": stored.offset},
        )
        message = f"the worker failed to decode this record: {type(bug).__name__}"
        return InvalidRecord(build_dead_letter(stored, DeadLetterReason.DECODE_ERROR, message, now, error=bug))


def _time(timestamp_ms: int) -> datetime | None:
    """Return the record's time, or None if it is outside what `datetime` can represent."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
