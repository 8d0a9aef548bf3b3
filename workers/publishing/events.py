"""Publishing the outbox's events: fetch, send, and mark as published what the broker acknowledged."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

import asyncpg

from storage import outbox
from storage.errors import in_words
from storage.outbox import PendingEvent
from workers.publishing.low_water import LowWater
from workers.publishing.producer import (
    BehindRefusedError,
    Delivery,
    Producer,
    concerns_topic,
    is_unpublishable,
    raise_first,
)
from workers.publishing.set_aside import SetAside

logger = logging.getLogger(__name__)

# Each refusal costs a new producer.
MAX_REFUSALS_PER_POLL = 20


class EventPublisher:
    """Publishes events batch by batch; each poll also marks the batch before it.

    That saves a round trip and a commit per batch. Between two polls, `mark()` writes the marks that are due.

    An event that cannot be published now is set aside with all of its key (`set_aside`); one that never can be is
    marked as unpublishable. Neither holds other keys back.
    """

    def __init__(self, producer: Producer, batch_size: int, clock: Callable[[], datetime]) -> None:
        self._producer = producer
        self._batch_size = batch_size
        self._clock = clock
        self._low_water = LowWater()
        self._set_aside = SetAside()
        # Positions that the broker acknowledged and that are not marked in the table yet.
        self._acknowledged: list[int] = []

    async def publish(self, connection: asyncpg.Connection, shards: list[int]) -> int:
        """Publish the next batch of `shards`; returns how many events were published, set aside or unpublishable.

        Raises the first error of the sends where none succeeded and Kafka itself may be away.
        """
        if self._set_aside.due():
            await self._try_again(connection, shards)
        complete = await self._low_water.complete_position(connection)
        events = await outbox.pending(
            connection,
            shards,
            self._low_water.position,
            self._batch_size,
            published=self._acknowledged,
            now=self._clock(),
            without_topics=self._set_aside.topics,
            without_keys=self._set_aside.keys,
        )
        self._acknowledged = []
        if not events or events[0].position > complete:
            self._low_water.raise_to(complete)
        if not events:
            return 0
        deliveries = await self._producer.send_events(events)
        if all(delivery.error is None for delivery in deliveries):
            self._set_aside.note_success()
            self._acknowledged = [event.position for event in events]
        else:
            await self._handle_failures(connection, deliveries)
        return len(events)

    async def mark(self, connection: asyncpg.Connection) -> None:
        """Mark acknowledged rows now: the next poll may be late, in another process, or never."""
        if self._acknowledged:
            await outbox.mark_published(connection, self._acknowledged, self._clock())
            self._acknowledged = []

    def read_from_the_beginning(self) -> None:
        """Forget which positions lie behind us, because shards were taken of which that is not known."""
        self._low_water.reset()
        self._set_aside.start_over()

    def forget_acknowledged(self) -> None:
        """Forget acknowledged rows that are not marked; they are published again.

        Their positions must not be marked on another connection: a server that took over without the newest rows
        assigns the same positions to other rows.
        """
        self._acknowledged = []

    async def _handle_failures(self, connection: asyncpg.Connection, deliveries: Sequence[Delivery]) -> None:
        """Mark what was acknowledged of a failed batch; set the rest aside, or mark it as unpublishable."""
        deliveries, unpublishable = await self._send_refused_alone(deliveries)
        failed = [delivery for delivery in deliveries if delivery.error is not None]
        # Order is kept per key: when one event of a key failed, all events of that key in this batch are sent again.
        keys = {(event.topic, event.key) for delivery in failed for event in delivery.events}
        self._acknowledged = [
            event.position
            for delivery in deliveries
            if delivery.error is None
            for event in delivery.events
            if (event.topic, event.key) not in keys
        ]
        await self.mark(connection)
        for event, error in unpublishable:
            if (event.topic, event.key) not in keys:
                await self._give_up(connection, event, error)
        succeeded = len(failed) < len(deliveries) or bool(unpublishable)
        blamed = self._set_aside.blames_events((delivery.error for delivery in failed), succeeded=succeeded)
        for delivery in failed:
            if concerns_topic(delivery.error):
                self._hold(delivery, None)
            elif blamed:
                self._hold(delivery, {event.key for event in delivery.events})
        if not blamed:
            raise_first(delivery.error for delivery in failed if not concerns_topic(delivery.error))

    def _hold(self, delivery: Delivery, keys: set[str] | None) -> None:
        topic, error = delivery.events[0].topic, delivery.error
        if error is not None and topic not in self._set_aside.topics:
            self._set_aside.add(topic, keys, self._low_water.position, error)

    async def _send_refused_alone(
        self, deliveries: Sequence[Delivery]
    ) -> tuple[list[Delivery], list[tuple[PendingEvent, BaseException]]]:
        """Send the events of refused batches one by one: any event of a batch may be the one that is refused.

        Returns the other deliveries, and the events that are refused alone as well, with their errors. After
        MAX_REFUSALS_PER_POLL the rest is in neither and is left to the next poll.
        """
        others: list[Delivery] = []
        unpublishable: list[tuple[PendingEvent, BaseException]] = []
        for _ in range(MAX_REFUSALS_PER_POLL):
            again: list[PendingEvent] = []
            for one in deliveries:
                if is_unpublishable(one.error) and len(one.events) == 1:
                    unpublishable.append((one.events[0], one.error))
                elif is_unpublishable(one.error) or isinstance(one.error, BehindRefusedError):
                    again += one.events
                else:
                    others.append(one)
            if not again:
                break
            deliveries = await self._producer.send_events(again, each_alone=True)
        return others, unpublishable

    async def _give_up(self, connection: asyncpg.Connection, event: PendingEvent, error: BaseException) -> None:
        logger.error(
            "Event %s (%s of key %s, %d bytes) will never be accepted by Kafka (%s) and stays in the outbox; later "
            "events of its key are published. `inventory outbox list` shows it",
            event.id,
            event.type,
            event.key,
            len(event.payload.encode()),
            in_words(error),
        )
        await outbox.mark_unpublishable(connection, event.position, in_words(error))

    async def _try_again(self, connection: asyncpg.Connection, shards: list[int]) -> None:
        """Send the first event of each topic or key set aside; once it is acknowledged, poll for the others again."""
        await self.mark(connection)
        first = {}
        for held in self._set_aside.held:
            event = await outbox.first_pending(connection, shards, held.from_position, held.topic, held.keys)
            if event is None:
                self._set_aside.release(held)
            else:
                first[event.position] = held, event
        if not first:
            return
        deliveries = await self._producer.send_events([first[position][1] for position in sorted(first)])
        sent = [event.position for one in deliveries if one.error is None for event in one.events]
        await outbox.mark_published(connection, sent, self._clock())
        # An event that is too large is no reason to keep its topic waiting: the next poll marks it as unpublishable.
        refused = [event.position for one in deliveries if is_unpublishable(one.error) for event in one.events]
        for position in (*sent, *refused):
            held = first[position][0]
            self._low_water.go_back_to(held.from_position)
            self._set_aside.release(held)
