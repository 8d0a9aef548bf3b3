"""Builds the dead letter of a record: its id, its fingerprint and its stack trace."""

import hashlib
import traceback
from datetime import datetime
from uuid import UUID

from engine.outbox_rows import name_uuid
from storage.dead_letters import DeadLetter, DeadLetterReason, StoredRecord

MAX_STACKTRACE_BYTES = 8 * 1024
MAX_MESSAGE_LENGTH = 2000
REDRIVE_COUNT_HEADER = "x-dlq-redrive-count"


def build_dead_letter(  # noqa: PLR0913 - a dead letter is these facts
    record: StoredRecord,
    reason: DeadLetterReason,
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

    Its id is derived from the record's position and content: a redelivered record gives the same id, and a record at
    the same position of a topic that was deleted and created again gives another.
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
    """Return the error's own stack trace without local values; of a long one, the last 8 KiB."""
    trace = "".join(traceback.format_exception(error, chain=False))
    return trace.encode("utf-8", "replace")[-MAX_STACKTRACE_BYTES:].decode("utf-8", "ignore").replace("\x00", "")


def _fingerprint(topic: str, reason: DeadLetterReason, message: str) -> str:
    """Return what dead letters of one kind have in common: a hash of topic, reason and message without its values."""
    shape = message.partition(", got ")[0]
    shape = "".join("0" if character.isdigit() else character for character in shape)
    return hashlib.blake2b(f"{topic}\x1f{reason}\x1f{shape}".encode("utf-8", "replace"), digest_size=8).hexdigest()


def _redrive_count(record: StoredRecord) -> int:
    """Return how often the record was redriven: one more than the header of the dead letter that was redriven says."""
    for name, value in record.headers:
        if name.lower() == REDRIVE_COUNT_HEADER and value is not None and value.isdigit() and len(value) <= 6:  # noqa: PLR2004
            return int(value) + 1
    return 0
