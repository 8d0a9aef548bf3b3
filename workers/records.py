"""A batch's raw records: each decoded by itself into an event with its command, or into a dead letter."""

import hashlib
import logging
import traceback
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from domain.commands import Command
from schemas.envelope import Event, decode
from schemas.errors import ContractViolation
from storage.dead_letters import DeadLetter, StoredRecord
from workers.handlers import command_for
from workers.outgoing import name_uuid

logger = logging.getLogger(__name__)

MAX_STACKTRACE_BYTES = 8 * 1024
MAX_MESSAGE_LENGTH = 2000
REDRIVE_COUNT_HEADER = "x-dlq-redrive-count"


class KafkaRecord(Protocol):
    """What the consumer hands over; aiokafka's ConsumerRecord is one."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Incoming(NamedTuple):
    """A record that carries a valid event, and the command that the event means."""

    record: StoredRecord
    event: Event
    command: Command


class Poison(NamedTuple):
    """A record that will be given up."""

    letter: DeadLetter


def read_records(records: Iterable[KafkaRecord], prefix: str, now: datetime) -> list[Incoming | Poison]:
    """Decode and validate each record by itself; a bad one becomes a dead letter and harms no other."""
    return [_read(record, prefix, now) for record in records]


def _read(record: KafkaRecord, prefix: str, now: datetime) -> Incoming | Poison:
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
        event = decode(stored.topic, stored.value, stored.headers, record.timestamp)
        return Incoming(stored, event, command_for(event))
    except ContractViolation as violation:
        return Poison(
            dead_letter(
                stored,
                violation.reason,
                violation.message,
                now,
                event_id=violation.event_id,
                event_type=violation.event_type,
                source=violation.source,
                error=violation,
            )
        )
    except Exception as bug:
        # One record that trips over a bug must not stop the shop; many of them trip the flood breaker.
        logger.exception(
            "A record could not be read, and that is a bug in the worker; it becomes a dead letter",
            extra={"topic": stored.topic, "partition": stored.partition, "offset": stored.offset},
        )
        message = f"the worker failed to read this record: {type(bug).__name__}"
        return Poison(dead_letter(stored, "decode_error", message, now, error=bug))


def _time(timestamp_ms: int) -> datetime | None:
    """Return the record's time, or None for one that no calendar has."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def dead_letter(  # noqa: PLR0913 - a dead letter is these facts
    record: StoredRecord,
    reason: str,
    message: str,
    now: datetime,
    *,
    event_id: str | None = None,
    event_type: str | None = None,
    source: str | None = None,
    error: BaseException | None = None,
    delivery_count: int = 1,
) -> DeadLetter:
    """Return the dead letter for `record`.

    Its id follows from where the record stood and what it said, so a record that is delivered again
    makes the same dead letter, and a topic made anew under the old name does not.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(record.key or b"")
    digest.update(record.value or b"")
    place = f"{record.topic}\x1f{record.partition}\x1f{record.offset}\x1f{record.timestamp}\x1f{digest.hexdigest()}"
    exception_class = None if error is None else f"{type(error).__module__}.{type(error).__qualname__}"
    return DeadLetter(
        UUID(name_uuid(f"dead-letter\x1f{place}\x1f{reason}")),
        record,
        reason,
        message[:MAX_MESSAGE_LENGTH],
        exception_class,
        None if error is None else _stacktrace(error),
        _fingerprint(record.topic, reason, message),
        event_id,
        event_type,
        source,
        delivery_count,
        _redrive_count(record),
        now,
    )


def _stacktrace(error: BaseException) -> str:
    """Return the error's own trace without local values, at most 8 KiB, the end kept."""
    trace = "".join(traceback.format_exception(error, chain=False))
    return trace.encode("utf-8", "replace")[-MAX_STACKTRACE_BYTES:].decode("utf-8", "ignore").replace("\x00", "")


def _fingerprint(topic: str, reason: str, message: str) -> str:
    """Return what groups dead letters of one kind: topic, reason, and the message without its values."""
    shape = message.partition(", got ")[0]
    shape = "".join("0" if character.isdigit() else character for character in shape)
    return hashlib.blake2b(f"{topic}\x1f{reason}\x1f{shape}".encode("utf-8", "replace"), digest_size=8).hexdigest()


def _redrive_count(record: StoredRecord) -> int:
    """Return how often the record was replayed, as the header of its last dead letter says, plus this time."""
    for name, value in record.headers:
        if name.lower() == REDRIVE_COUNT_HEADER and value is not None and value.isdigit() and len(value) <= 6:  # noqa: PLR2004
            return int(value) + 1
    return 0
