"""Publishing dead letters: each record to its topic's dead-letter topic, byte for byte, and when to look for them."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime

import asyncpg

from schemas.topics import dlq_topic
from storage import dead_letters
from storage.dead_letters import DeadLetter
from storage.errors import in_words
from workers.publishing.kafka_headers import dead_letter_headers
from workers.publishing.producer import OutgoingRecord, Producer, is_too_large, raise_first

logger = logging.getLogger(__name__)

MAX_DEAD_LETTERS = 100
MAX_DEAD_LETTER_BYTES = 8 * 1024 * 1024

PendingDeadLetters = Sequence[tuple[int, DeadLetter]]
"""Dead letters with their positions in the table."""


class DeadLetterPublisher:
    """Publishes dead letters, which are rare: `due()` says when to poll for them."""

    def __init__(
        self,
        producer: Producer,
        *,
        prefix: str,
        group_id: str,
        version: str,
        poll_seconds: float,
        clock: Callable[[], datetime],
    ) -> None:
        self._producer = producer
        self._prefix = prefix
        self._group_id = group_id
        self._version = version
        self._poll_seconds = poll_seconds
        self._clock = clock
        self.next_poll = 0.0

    def poll_within(self, seconds: float) -> None:
        """Bring the next poll forward to at most `seconds` from now."""
        self.next_poll = min(self.next_poll, asyncio.get_running_loop().time() + seconds)

    def due(self) -> bool:
        """Return whether a poll is due; the one after it is then an interval away."""
        now = asyncio.get_running_loop().time()
        if now < self.next_poll:
            return False
        self.next_poll = now + self._poll_seconds
        return True

    async def pending(self, connection: asyncpg.Connection) -> PendingDeadLetters:
        """Return the oldest unpublished dead letters, a bounded number of bounded size."""
        pending: PendingDeadLetters = await dead_letters.pending_dead_letters(
            connection, MAX_DEAD_LETTERS, MAX_DEAD_LETTER_BYTES
        )
        if pending:
            # There may be more of them, and those that fail to send stay pending.
            self.poll_within(0.0)
        return pending

    async def publish(self, connection: asyncpg.Connection, pending: PendingDeadLetters) -> None:
        """Send dead letters and mark those that the broker acknowledged; raises the first error of the others.

        One that its topic refuses for its size stays in the table only, marked as such.
        """
        errors = await self._producer.send_records([self._record(letter) for _, letter in pending])
        published = []
        for (position, letter), error in zip(pending, errors, strict=True):
            if error is None or (is_too_large(error) and await self._publish_alone(connection, position, letter)):
                published.append(position)
        if published:
            await dead_letters.mark_published(connection, published, self._clock())
        raise_first(error for error in errors if not is_too_large(error))

    async def _publish_alone(self, connection: asyncpg.Connection, position: int, letter: DeadLetter) -> bool:
        """Send a dead letter that was in a refused batch by itself: any record of the batch may be the large one.

        Each time with a new producer: after a refusal the sequence numbers of the old one have a gap.
        """
        await self._producer.drop()
        (error,) = await self._producer.send_records([self._record(letter)])
        if is_too_large(error):
            logger.error("Dead letter %s is too large for its topic and stays in the table only", letter.id)
            await dead_letters.mark_unpublishable(connection, position, in_words(error))
            await self._producer.drop()
            return False
        raise_first([error])
        return True

    def _record(self, letter: DeadLetter) -> OutgoingRecord:
        record = letter.record
        return OutgoingRecord(
            dlq_topic(record.topic),
            record.partition,
            record.key,
            record.value,
            record.timestamp,
            dead_letter_headers(letter, self._prefix, self._group_id, self._version),
        )
