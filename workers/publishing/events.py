"""Publishing the outbox's events: fetch, send, and mark as published what the broker acknowledged."""

from collections.abc import Callable
from datetime import datetime

import asyncpg

from storage import outbox
from workers.publishing.low_water import LowWater
from workers.publishing.producer import Producer, raise_first


class EventPublisher:
    """Publishes events batch by batch; each poll also marks the batch before it.

    That saves a round trip and a commit per batch. Between two polls, `mark()` writes the marks that are due.
    """

    def __init__(self, producer: Producer, batch_size: int, clock: Callable[[], datetime]) -> None:
        self._producer = producer
        self._batch_size = batch_size
        self._clock = clock
        self._low_water = LowWater()
        # Positions that the broker acknowledged and that are not marked in the table yet.
        self._acknowledged: list[int] = []

    async def publish(self, connection: asyncpg.Connection, shards: list[int]) -> int:
        """Publish the next batch of `shards`; returns how many events the broker acknowledged.

        Raises the first error of the sends, after marking what was acknowledged.
        """
        settled = await self._low_water.settled_position(connection)
        events = await outbox.pending(
            connection,
            shards,
            self._low_water.position,
            self._batch_size,
            published=self._acknowledged,
            now=self._clock(),
        )
        self._acknowledged = []
        if not events or events[0].position > settled:
            self._low_water.raise_to(settled)
        if not events:
            return 0
        deliveries = await self._producer.send_events(events)
        # Order is kept per key: when one event of a key failed, all events of that key in this batch are sent again.
        failed = {
            (event.topic, event.key)
            for delivery in deliveries
            if delivery.error is not None
            for event in delivery.events
        }
        self._acknowledged = [
            event.position for event in events if not failed or (event.topic, event.key) not in failed
        ]
        if failed:
            await self.mark(connection)
            raise_first(delivery.error for delivery in deliveries)
        return len(self._acknowledged)

    async def mark(self, connection: asyncpg.Connection) -> None:
        """Mark acknowledged rows now: the next poll may be late, in another process, or never."""
        if self._acknowledged:
            await outbox.mark_published(connection, self._acknowledged, self._clock())
            self._acknowledged = []

    def read_from_the_beginning(self) -> None:
        """Forget the low-water position, because shards were taken that it says nothing about."""
        self._low_water.reset()

    def forget_acknowledged(self) -> None:
        """Forget acknowledged rows that are not marked; they are published again.

        Their positions must not be marked on another connection: a server that took over without the newest rows
        assigns the same positions to other rows.
        """
        self._acknowledged = []
