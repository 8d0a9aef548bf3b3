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
from workers.publishing.producer import OutgoingRecord, Producer, concerns_topic, is_too_large, raise_first
from workers.publishing.set_aside import SetAside

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
        self._set_aside = SetAside()
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
        """Return the oldest unpublished dead letters, a bounded number of bounded size.

        Those of a topic that is set aside are among them only when it is due to be tried again.
        """
        without = [] if self._set_aside.due() else self._set_aside.topics
        pending: PendingDeadLetters = await dead_letters.pending_dead_letters(
            connection, MAX_DEAD_LETTERS, MAX_DEAD_LETTER_BYTES, without_topics=without
        )
        if pending:
            # There may be more of them, and those that fail to send stay pending.
            self.poll_within(0.0)
        return pending

    async def publish(self, connection: asyncpg.Connection, pending: PendingDeadLetters) -> None:
        """Send dead letters and mark those that the broker acknowledged.

        One that its topic refuses for its size stays in the table only, marked as such. A topic that cannot be written
        is set aside, and so is one whose records all fail. Raises the first error where nothing was acknowledged: Kafka
        itself may be away, but not for ever, because events wait behind this.
        """
        errors = await self._producer.send_records([self._record(letter) for _, letter in pending])
        published: list[int] = []
        failed: dict[str, BaseException] = {}
        working: set[str] = set()
        for (position, letter), error in zip(pending, errors, strict=True):
            if error is None or (is_too_large(error) and await self._publish_alone(connection, position, letter)):
                published.append(position)
                working.add(letter.record.topic)
            elif not is_too_large(error):
                failed.setdefault(letter.record.topic, error)
        if published:
            await dead_letters.mark_published(connection, published, self._clock())
        for held in self._set_aside.held:
            if held.topic in working - failed.keys():
                self._set_aside.release(held)
        blamed = self._set_aside.blames_events(failed.values(), succeeded=bool(published))
        for topic, error in failed.items():
            if topic not in self._set_aside.topics and (blamed or concerns_topic(error)):
                self._set_aside.add(topic, None, 0, error)
        if not blamed:
            raise_first(error for error in failed.values() if not concerns_topic(error))

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
