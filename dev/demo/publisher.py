"""Publishes the shop's records when they are due, and records what the broker acknowledged."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from dev.demo.records import encode
from dev.demo.requests import CartClient, goes_over_http
from dev.demo.shop import Publication
from dev.demo.state import DemoState

FLUSH_SECONDS: Final = 30.0
WITHOUT_OUTCOME_KEPT: Final = 10_000


class Publisher:
    """The producer, and the time of publishing of each order without an outcome."""

    def __init__(self, producer: AIOKafkaProducer, state: DemoState) -> None:
        self._producer = producer
        self._state = state
        self._in_flight: set[Any] = set()
        self._published_at: dict[str, float] = {}

    async def create_topics(self, topics: Iterable[str]) -> None:
        """Create the topics: the embedded broker creates one when its metadata is requested."""
        for topic in topics:
            await self._producer.partitions_for(topic)

    async def publish(self, publications: Iterable[Publication], carts: CartClient | None = None) -> None:
        """Publish each record when it is due after the shop's opening, or send it to the API where it goes over HTTP.

        Returns when Kafka acknowledged all of them, and the API answered.
        """
        for publication in publications:
            wait = publication.due - self._state.now()
            if wait > 0:
                await asyncio.sleep(wait)
            if carts is not None and goes_over_http(publication):
                await carts.send(publication)
            else:
                await self._send(publication)
        if carts is not None:
            await carts.flush()
        await self.flush()

    async def flush(self) -> None:
        """Wait until Kafka acknowledged everything; raises the first delivery error."""
        async with asyncio.timeout(FLUSH_SECONDS):
            await asyncio.gather(*self._in_flight)

    def pop_age(self, event_id: str) -> float | None:
        """Return the seconds since an order was published, or None if this was asked before."""
        published_at = self._published_at.pop(event_id, None)
        return None if published_at is None else time.monotonic() - published_at

    async def _send(self, publication: Publication) -> None:
        record = encode(publication, datetime.now(UTC))
        if publication.kind == "order created" and len(self._published_at) < WITHOUT_OUTCOME_KEPT:
            self._published_at[publication.event_id] = time.monotonic()
        sent = await self._producer.send(record.topic, record.value, key=record.key, headers=[*record.headers])
        self._in_flight.add(sent)
        sent.add_done_callback(self._acknowledged)
        self._state.published[publication.kind] += 1

    def _acknowledged(self, sent: Any) -> None:  # noqa: ANN401 - aiokafka is published without types
        if sent.cancelled() or sent.exception() is not None:
            return  # raised by `flush`
        self._in_flight.discard(sent)
        metadata = sent.result()
        place = (metadata.topic, metadata.partition)
        ends = self._state.ends
        ends[place] = max(ends.get(place, 0), metadata.offset + 1)


@asynccontextmanager
async def open_publisher(bootstrap_servers: str, state: DemoState) -> AsyncIterator[Publisher]:
    """Give a started publisher; stop its producer afterwards, within five seconds."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        yield Publisher(producer, state)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await producer.stop()
