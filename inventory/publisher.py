"""Publishes a shop's order history to Kafka as if it happened now.

Orders follow only after the workers have read the products: topics are not ordered among each other, and an order for
an unknown product is refused for good.
"""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from inventory.console import ProgressLine
from inventory.csv_rows import open_rows
from inventory.errors import OperatorError
from inventory.history import HistoryEvent, InvoiceLine, invoice_events, product_events, read_lines, survey
from inventory.topics import OpenAdmin, missing_topics

SOURCE: Final = "inventory.publish"
MAX_IN_FLIGHT: Final = 2000
SEND_TIMEOUT_SECONDS: Final = 30.0
WAIT_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Target:
    """The cluster to publish to; both functions raise OperatorError if Kafka cannot be used, also inside the block."""

    open_admin: OpenAdmin
    open_producer: Callable[[], AbstractAsyncContextManager[AIOKafkaProducer]]
    topic_prefix: str
    group_id: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to publish and how."""

    path: Path
    speed: float | None = None
    initial_stock: int | None = None
    threshold: int | None = None
    wait_timeout_seconds: float | None = 60.0


@dataclass(slots=True)
class Summary:
    """What was published."""

    rows: int
    products: int
    invoices: int
    events: Counter[str]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the counts by name, as they are printed."""
        total = self.events.total()
        return {
            "rows": self.rows,
            "products": self.products,
            "invoices": self.invoices,
            "orders": self.events["order.created"],
            "payments": self.events["payment.succeeded"],
            "refunds": self.events["payment.refunded"],
            "cancellations": self.events["order.cancelled"],
            "adjustments": self.events["inventory.adjustment"],
            "events": total,
            "seconds": round(self.seconds, 3),
            "events_per_second": round(total / self.seconds) if self.seconds else 0,
        }


async def publish(target: Target, plan: Plan, progress: ProgressLine) -> Summary:
    """Read the file twice, for its products and then for its invoices, and publish the events.

    Raises OperatorError if Kafka or the file cannot be used, HistoryError for a bad row.
    """
    found = survey(read_lines(open_rows(plan.path)))
    await _check_topics(target)
    started = time.monotonic()
    events: Counter[str] = Counter()
    async with target.open_producer() as producer:
        sender = _Sender(producer, target.topic_prefix)
        for number, event in enumerate(product_events(found, plan.initial_stock, plan.threshold), start=1):
            await sender.send(event)
            events[event.topic] += 1
            progress("products", number, len(found.needed))
        await sender.flush()
        if plan.wait_timeout_seconds is not None:
            await wait_until_read(target, sender.ends, plan.wait_timeout_seconds, progress)
        pace = Pace(plan.speed)
        for row, event in _invoices(plan.path):
            await pace.wait_for(event)
            await sender.send(event)
            events[event.topic] += 1
            progress("rows", row, found.rows)
        await sender.flush()
        progress("rows", found.rows, found.rows)
    return Summary(found.rows, len(found.needed), found.invoices, events, time.monotonic() - started)


def dry_run(plan: Plan) -> Iterator[str]:
    """Yield every event that would be published, in order, as a line of JSON; connects to nothing."""
    found = survey(read_lines(open_rows(plan.path)))
    yield from map(_json_line, product_events(found, plan.initial_stock, plan.threshold))
    yield from (_json_line(event) for _, event in _invoices(plan.path))


async def wait_until_read(
    target: Target, ends: dict[TopicPartition, int], timeout_seconds: float, progress: ProgressLine
) -> None:
    """Wait until the workers' group has committed these offsets; raises OperatorError after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    waiting = set(ends)
    async with target.open_admin() as client:
        while True:
            try:
                committed = await client.list_consumer_group_offsets(target.group_id, partitions=list(ends))
                waiting = {
                    place for place, end in ends.items() if place not in committed or committed[place].offset < end
                }
            except (KafkaError, OSError, AttributeError):
                # No coordinator yet, or an error that aiokafka cannot report (AttributeError): ask again.
                pass
            progress("partitions of products that the workers have read", len(ends) - len(waiting), len(ends))
            if not waiting:
                return
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(WAIT_POLL_SECONDS)
    raise OperatorError(
        f"the workers of group {target.group_id} have not read the products after {timeout_seconds:g} s "
        f"({len(ends) - len(waiting)} of {len(ends)} partitions done): is `inventory run` running? "
        "Publishing the file again is safe; --wait-timeout waits longer, --no-wait does not wait at all"
    )


class _Sender:
    """Sends events as CloudEvents in binary mode, with a bounded number in flight."""

    def __init__(self, producer: AIOKafkaProducer, topic_prefix: str) -> None:
        self.ends: dict[TopicPartition, int] = {}
        self._topic_prefix = topic_prefix
        self._producer = producer
        self._in_flight: deque[asyncio.Future[Any]] = deque()
        self._last = datetime.min.replace(tzinfo=UTC)

    async def send(self, event: HistoryEvent) -> None:
        """Send the event; first wait for older ones if too many are in flight."""
        # Strictly increasing: a cart's update must be earlier than the order that converts the cart.
        self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            self._in_flight.append(
                await self._producer.send(
                    self._topic_prefix + event.topic,
                    key=event.key.encode(),
                    value=_body(event.data),
                    headers=binary_headers(event, self._last),
                )
            )
            while len(self._in_flight) > MAX_IN_FLIGHT:
                await self._acknowledged()

    async def flush(self) -> None:
        """Wait until Kafka has acknowledged everything sent so far."""
        while self._in_flight:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                await self._acknowledged()

    async def _acknowledged(self) -> None:
        metadata = await self._in_flight.popleft()
        place = TopicPartition(metadata.topic, metadata.partition)
        self.ends[place] = max(self.ends.get(place, 0), metadata.offset + 1)


class Pace:
    """Delays events to `speed` times the pace of the file; without a speed, does not delay."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._began: tuple[float, datetime] | None = None

    async def wait_for(self, event: HistoryEvent) -> None:
        """Return when the event is due."""
        if self._speed is None or event.at is None:
            return
        if self._began is None:
            self._began = (time.monotonic(), event.at)
        began, first = self._began
        due = began + (event.at - first).total_seconds() / self._speed
        await asyncio.sleep(max(0.0, due - time.monotonic()))


def binary_headers(event: HistoryEvent, occurred_at: datetime) -> list[tuple[str, bytes]]:
    """Return the Kafka headers of a CloudEvent in binary mode."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event.id.encode()),
        ("ce_source", SOURCE.encode()),
        ("ce_type", event.topic.encode()),
        ("ce_time", occurred_at.isoformat().replace("+00:00", "Z").encode()),
        ("content-type", b"application/json"),
    ]


async def _check_topics(target: Target) -> None:
    async with target.open_admin() as client:
        missing = await missing_topics(client, target.topic_prefix)
    if missing:
        raise OperatorError(f"Kafka has no topic {', '.join(missing)}: run `inventory topics create` first")


def _invoices(path: Path) -> Iterator[tuple[int, HistoryEvent]]:
    """Give every event with the number of rows read so far."""
    rows = 0

    def counted() -> Iterator[InvoiceLine]:
        nonlocal rows
        for line in read_lines(open_rows(path)):
            rows += 1
            yield line

    for event in invoice_events(counted()):
        yield rows, event


def _body(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def _json_line(event: HistoryEvent) -> str:
    line = {
        "topic": event.topic,
        "key": event.key,
        "event_id": event.id,
        "invoice_date": event.at.isoformat().replace("+00:00", "Z") if event.at else None,
        "data": event.data,
    }
    return json.dumps(line, ensure_ascii=False)
