"""Publishes the shop's script to Kafka, each record when it is due, and keeps account of what the broker has."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from dev.demo.records import encode
from dev.demo.shop import Publication
from dev.demo.state import DemoState

FLUSH_SECONDS: Final = 30.0
UNANSWERED_KEPT: Final = 10_000


class Publisher:
    """The producer, and when each order was published: until its outcome has been read."""

    def __init__(self, producer: AIOKafkaProducer, state: DemoState) -> None:
        self._producer = producer
        self._state = state
        self._in_flight: set[Any] = set()
        self._asked: dict[str, float] = {}

    async def name_topics(self, topics: Iterable[str]) -> None:
        """Make the topics: the embedded broker has a topic from the moment it is asked about it."""
        for topic in topics:
            await self._producer.partitions_for(topic)

    async def publish(self, publications: Iterable[Publication]) -> None:
        """Publish what is due, in the script's time since the shop opened; return when Kafka has all of it."""
        for publication in publications:
            wait = publication.due - self._state.now()
            if wait > 0:
                await asyncio.sleep(wait)
            await self._send(publication)
        await self.flush()

    async def flush(self) -> None:
        """Return when Kafka has acknowledged everything; raises what it said otherwise."""
        async with asyncio.timeout(FLUSH_SECONDS):
            await asyncio.gather(*self._in_flight)

    def answered(self, event_id: str) -> float | None:
        """Return the seconds since an order was published, the first time that somebody asks."""
        asked = self._asked.pop(event_id, None)
        return None if asked is None else time.monotonic() - asked

    async def _send(self, publication: Publication) -> None:
        record = encode(publication, datetime.now(UTC))
        if publication.kind == "order created" and len(self._asked) < UNANSWERED_KEPT:
            self._asked[publication.event_id] = time.monotonic()
        sent = await self._producer.send(record.topic, record.value, key=record.key, headers=[*record.headers])
        self._in_flight.add(sent)
        sent.add_done_callback(self._acknowledged)
        self._state.published[publication.kind] += 1

    def _acknowledged(self, sent: Any) -> None:  # noqa: ANN401 - aiokafka is published without types
        if sent.cancelled() or sent.exception() is not None:
            return  # `flush` raises it
        self._in_flight.discard(sent)
        metadata = sent.result()
        place = (metadata.topic, metadata.partition)
        ends = self._state.ends
        ends[place] = max(ends.get(place, 0), metadata.offset + 1)


@asynccontextmanager
async def open_publisher(bootstrap_servers: str, state: DemoState) -> AsyncIterator[Publisher]:
    """Give a started producer; on leaving, stop it within a bound."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        yield Publisher(producer, state)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await producer.stop()
