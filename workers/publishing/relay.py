"""The relay: publishes the outbox and the dead letters, woken by the commit that wrote them.

Every worker can relay. One relay at a time holds a shard of the keys (`shards`), so the events of a key are published
in the order in which they were written. A row leaves the queue only after the broker acknowledged it (`events`,
`dead_letters`): what is published again after a crash has the same id.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from engine.backoff import Backoff
from storage import outbox
from storage.database import connect_worker
from storage.errors import in_words, is_contention, is_unavailable
from workers.kafka_errors import is_kafka_trouble
from workers.publishing.dead_letters import DeadLetterPublisher
from workers.publishing.events import EventPublisher
from workers.publishing.producer import Producer
from workers.publishing.shards import Shards

logger = logging.getLogger(__name__)

# A notification does not say whether a dead letter was written. Most commits write none, so the poll for dead letters
# follows a notification only after this long, one poll for all notifications in between.
DEAD_LETTER_SECONDS = 0.2
# Time allowed on close to mark acknowledged rows; unmarked rows are published again.
LAST_MARK_SECONDS = 2.0
CLOSE_SECONDS = 2.0
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 5.0


class RelayOptions(NamedTuple):
    """What a relay publishes with: the prefix of all topics, what dead letters name as their origin, and its pace."""

    prefix: str
    group_id: str
    version: str
    poll_seconds: float
    batch_size: int


class Relay:
    """Publishes for the shards it holds; `wake()` after each commit, `run()` until cancelled."""

    def __init__(
        self,
        database_url: str,
        producer_options: Mapping[str, Any],
        options: RelayOptions,
        clock: Callable[[], datetime],
    ) -> None:
        self._database_url = database_url
        self._poll_seconds = options.poll_seconds
        self._producer = Producer(producer_options, options.prefix)
        self._shards = Shards()
        self._events = EventPublisher(self._producer, options.batch_size, clock)
        self._dead_letters = DeadLetterPublisher(
            self._producer,
            prefix=options.prefix,
            group_id=options.group_id,
            version=options.version,
            poll_seconds=options.poll_seconds,
            clock=clock,
        )
        self._connection: asyncpg.Connection | None = None
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()

    @property
    def held_shards(self) -> frozenset[int]:
        """The shards that this relay holds; the highest number is the shard of the dead letters."""
        return self._shards.held

    async def run(self) -> None:
        """Publish until cancelled; after a failure of Kafka or the database, try again."""
        backoff = Backoff(FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS)
        try:
            while True:
                try:
                    self._woken.clear()
                    if await self.run_once() == 0 and not self._woken.is_set():
                        self._idle.set()
                        await self._wait()
                    backoff.reset()
                except Exception as error:  # noqa: BLE001 - `_recover` raises bugs again
                    await self._recover(error)
                    await backoff.wait()
        finally:
            await self.close()

    async def run_once(self) -> int:
        """Publish one batch of events and, when due, of dead letters; returns how many.

        Rows are marked as published by the next call, so call again at once until it returns 0: then all are marked.
        """
        connection = await self._connected()
        if await self._shards.rebalance(connection, before_release=lambda: self._events.mark(connection)):
            self._events.read_from_the_beginning()
            self._dead_letters.poll_within(0.0)
        published = 0
        if shards := self._shards.of_events:
            published = await self._events.publish(connection, shards)
        if self._dead_letters.due() and self._shards.of_dead_letters:
            published += await self._publish_dead_letters(connection)
        return published

    def wake(self, *, dead_letters: bool = False) -> None:
        """Poll at once because something was written; `dead_letters` says whether dead letters were."""
        if dead_letters:
            self._dead_letters.poll_within(0.0)
        self._woken.set()

    async def flush(self) -> None:
        """Wait until a poll that starts after this call finds our shards empty and everything marked."""
        self._idle.clear()
        self.wake(dead_letters=True)
        await self._idle.wait()

    async def close(self) -> None:
        """Stop the producer, mark what it got acknowledged, and close the connection, which frees the shards."""
        await self._producer.drop()
        await self._disconnect()

    async def _wait(self) -> None:
        """Wait to be woken, or for the next poll."""
        next_poll = asyncio.get_running_loop().time() + self._poll_seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(next_poll, self._dead_letters.next_poll)):
                await self._woken.wait()

    async def _recover(self, error: Exception) -> None:
        """Drop what the error may have left unusable; an error that is a bug is raised again."""
        if is_kafka_trouble(error) or isinstance(error, TimeoutError):
            logger.warning("The relay cannot publish (%s); trying again", in_words(error))
            await self._producer.drop()
            if isinstance(error, TimeoutError):
                # It may be the database that did not answer: its connection can hang unnoticed for minutes.
                await self._disconnect()
        elif is_unavailable(error) or is_contention(error):
            logger.warning("The relay cannot read the outbox (%s); trying again", in_words(error))
            await self._disconnect()
        else:
            raise error

    async def _publish_dead_letters(self, connection: asyncpg.Connection) -> int:
        pending = await self._dead_letters.pending(connection)
        if pending:
            # Sending them may take long or fail, and the next poll for events comes after it.
            await self._events.mark(connection)
            await self._dead_letters.publish(connection, pending)
        return len(pending)

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            await self._disconnect()
            self._connection = await connect_worker(self._database_url, "inventory-relay")
            await outbox.join_relays(self._connection)
            await self._connection.add_listener(outbox.CHANNEL, self._notified)
        return self._connection

    def _notified(self, *_: object) -> None:
        """Poll for events at once and for dead letters soon: a commit somewhere wrote one or the other."""
        self._dead_letters.poll_within(DEAD_LETTER_SECONDS)
        self._woken.set()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._shards.forget()
        if connection is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(LAST_MARK_SECONDS):
                    await self._events.mark(connection)
            with contextlib.suppress(Exception):
                await connection.close(timeout=CLOSE_SECONDS)
        self._events.forget_acknowledged()
