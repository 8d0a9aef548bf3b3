"""Publishes the workload to Kafka with acks=all and journals what the broker acknowledged.

It uses librdkafka, not the worker's client, so that a bug of that client cannot hide itself.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from confluent_kafka import KafkaException, Producer

from dev.chaos import poison
from dev.chaos.errors import ChaosError
from dev.chaos.schedule import Publication
from dev.chaos.workload import ENVELOPES, Workload
from dev.records import Position, ProducedRecord

TICK_SECONDS = 0.01
FLUSH_SECONDS = 60.0
# How often a record is published in all before a run does without it, as a producer's retry loop does.
MAX_ATTEMPTS = 3
SOURCE = "chaos/shop"
ODD_HEADERS_EVERY = 17


class Sent(NamedTuple):
    """One attempt to publish.

    Without an acknowledgement `position` and `acked_at` (wall clock) are None and `error` says why.
    """

    number: int
    topic: str
    event_id: str
    expects: tuple[str, ...]
    wild: bool
    position: Position | None
    acked_at: float | None
    error: str | None


class Generator:
    """Publishes a workload in real time; `journal` grows as the broker acknowledges."""

    def __init__(self, bootstrap_servers: str, prefix: str, workload: Workload) -> None:
        self._prefix = prefix
        self._workload = workload
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "acks": "all",
                "enable.idempotence": True,
                # Outlasts a restart of the broker; what is not acknowledged by then does not count.
                "message.timeout.ms": 60_000,
                "linger.ms": 5,
                "retry.backoff.ms": 50,
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "socket.keepalive.enable": True,
                "message.max.bytes": 4_000_000,
                "queue.buffering.max.messages": 1_000_000,
                # Connection errors are part of the run; keep them off stderr.
                "log_level": 0,
            },
        )
        self._bursts: deque[int] = deque()
        self._times: dict[str, datetime] = {}
        self.journal: list[Sent] = []
        self.ends: dict[tuple[str, int], int] = {}
        self.attempted = 0
        self._failed: list[tuple[Publication, ProducedRecord]] = []

    async def run(self, finished: asyncio.Event) -> None:
        """Publish until `finished`, then the rest of what has begun, and wait for all acknowledgements."""
        started = time.monotonic()
        while not finished.is_set():
            self._send_all(self._workload.until(time.monotonic() - started))
            while self._bursts:
                self._send_all(self._workload.burst(self._bursts.popleft()))
            self._producer.poll(0)
            await asyncio.sleep(TICK_SECONDS)
        self._send_all(self._workload.rest())
        await self.flush()

    async def publish(self, publications: Iterable[Publication]) -> None:
        """Publish at once and wait for the acknowledgements."""
        self._send_all(publications)
        await self.flush()

    def burst(self, count: int) -> None:
        """Publish `count` poison records with the next tick."""
        self._bursts.append(count)

    async def flush(self) -> None:
        """Wait until everything is acknowledged; what failed, or is not within FLUSH_SECONDS, is published again.

        The broker may have a record whose acknowledgement was lost, so publishing it again may make a duplicate.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            left = await asyncio.to_thread(self._producer.flush, FLUSH_SECONDS)
            if left:
                self._producer.purge()
                await asyncio.to_thread(self._producer.flush, 5)
            failed, self._failed = self._failed, []
            if not failed or attempt == MAX_ATTEMPTS:
                return
            for publication, record in failed:
                self._produce(publication, record)

    def acknowledged_ends(self) -> dict[tuple[str, int], int]:
        """Return the end of each partition, by the acknowledgements so far."""
        self._producer.poll(0)
        return dict(self.ends)

    def _send_all(self, publications: Iterable[Publication]) -> None:
        for publication in publications:
            self._send(publication)

    def _send(self, publication: Publication) -> None:
        now = datetime.now(UTC)
        # A producer's repeat keeps the event's own time.
        at = self._times.pop(publication.event_id, None) if publication.copy_of else None
        if at is None:
            at = now - timedelta(seconds=publication.age)
        if not publication.copy_of:
            self._times[publication.event_id] = at
        self._produce(publication, encode(publication, at))

    def _produce(self, publication: Publication, record: ProducedRecord) -> None:
        self.attempted += 1
        try:
            self._producer.produce(
                self._prefix + record.topic,
                record.value,
                record.key,
                headers=list(record.headers),
                timestamp=int(time.time() * 1000),
                on_delivery=lambda error, message: self._delivered(publication, record, error, message),
            )
        except (BufferError, KafkaException) as error:
            raise ChaosError(f"the producer's queue is full or closed: {error}") from error

    def _delivered(
        self,
        publication: Publication,
        record: ProducedRecord,
        error: object,
        message: Any,  # noqa: ANN401 - confluent_kafka's Message
    ) -> None:
        position, reason = None, None if error is None else str(error)
        if error is not None:
            self._failed.append((publication, record))
        # A record that the broker already had when it was sent again is acknowledged without an offset. It counts as
        # not acknowledged, since nobody knows where it is.
        if error is None and message.offset() is None:
            reason = "acknowledged without an offset"
        elif error is None:
            position = (publication.topic, message.partition(), message.offset())
            self.ends[position[:2]] = max(self.ends.get(position[:2], 0), position[2] + 1)
        self.journal.append(
            Sent(
                publication.number,
                publication.topic,
                publication.event_id,
                publication.expects,
                publication.wild,
                position,
                None if position is None else time.time(),
                reason,
            )
        )


def encode(publication: Publication, at: datetime) -> ProducedRecord:
    """Return the record: orders as structured CloudEvents, payments in binary mode, the rest as plain JSON."""
    key, time_ = publication.key.encode(), at.isoformat()
    plain = {"event_id": publication.event_id, "source": SOURCE, "occurred_at": time_, **publication.data}
    spoil = publication.spoil
    if spoil is not None and publication.wild:
        return ProducedRecord(publication.topic, key, poison.mutate(_json(plain), spoil), poison.odd_headers(spoil))
    if spoil is not None:
        return ProducedRecord(publication.topic, key, *poison.BY_NAME[spoil].spoil(plain))
    odd = poison.odd_headers(publication.event_id) if publication.number % ODD_HEADERS_EVERY == 0 else ()
    match ENVELOPES.get(publication.topic, "plain"):
        case "structured":
            event = {
                "specversion": "1.0",
                "id": publication.event_id,
                "source": SOURCE,
                "type": f"com.example.{publication.topic}",
                "time": time_,
                "data": publication.data,
            }
            return ProducedRecord(
                publication.topic, key, _json(event), [("content-type", b"application/cloudevents+json"), *odd]
            )
        case "binary":
            headers = {
                "ce_specversion": "1.0",
                "ce_id": publication.event_id,
                "ce_source": SOURCE,
                "ce_type": publication.topic,
                "ce_time": time_,
            }
            named = [(name, value.encode()) for name, value in headers.items()]
            return ProducedRecord(publication.topic, key, _json(publication.data), [*named, *odd])
        case _:
            return ProducedRecord(publication.topic, key, _json(plain), odd)


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
