"""Observes the worker from outside, as its users do: outgoing topics, tables and /metrics."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import asyncpg
from aiokafka import AIOKafkaConsumer
from prometheus_client.parser import text_string_to_metric_families

from dev.demo.processes import get
from dev.demo.state import Alert, DeadLetter, DemoState, StockRow
from schemas.topics import LOW_STOCK, RESERVATIONS, STOCK_RECOVERED, TOPICS_IN, TOPICS_OUT, dlq_topic
from storage.database import connect

POLL_SECONDS: Final = 0.2
METRICS_SECONDS: Final = 0.5
TIMEOUT_SECONDS: Final = 2.0
# The embedded broker answers a fetch only when its wait is over, even if records arrived meanwhile.
FETCH_WAIT_MS: Final = 10

_DLQ_SUFFIX: Final = dlq_topic("")
_EVENTS: Final = "inventory_events"
_RESERVATION_PREFIX: Final = "inventory.reservation."
_OUTGOING: Final = """
SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL)
        + (SELECT count(*) FROM dead_letters WHERE published_at IS NULL AND publish_error IS NULL),
    (SELECT count(*) FROM outbox) + (SELECT count(*) FROM dead_letters WHERE publish_error IS NULL)
"""


class TopicWatch:
    """Reads alerts, outcomes and dead letters with a consumer without a group."""

    def __init__(
        self,
        bootstrap_servers: str,
        state: DemoState,
        pop_age: Callable[[str], float | None],
        on_alert: Callable[[Alert], None],
    ) -> None:
        self._consumer = AIOKafkaConsumer(
            *TOPICS_OUT,
            *(dlq_topic(topic) for topic in TOPICS_IN),
            bootstrap_servers=bootstrap_servers,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )
        self._state = state
        self._pop_age = pop_age
        self._on_alert = on_alert

    async def run(self) -> None:
        """Read until cancelled."""
        await self._consumer.start()
        try:
            async for record in self._consumer:
                self._read(record)
        finally:
            await self._consumer.stop()

    def _read(self, record: Any) -> None:  # noqa: ANN401 - aiokafka is published without types
        self._state.read += 1
        if record.topic.endswith(_DLQ_SUFFIX):
            self._read_dead_letter(record)
            return
        event = json.loads(record.value)
        if record.topic == RESERVATIONS:
            self._state.reservations[event["type"].removeprefix(_RESERVATION_PREFIX)] += 1
            seconds = self._pop_age(event["caused_by"])
            if seconds is not None:
                self._state.latencies.append(seconds)
        elif record.topic in (LOW_STOCK, STOCK_RECOVERED):
            severity = event["severity"] if record.topic == LOW_STOCK else "recovered"
            alert = Alert(self._state.now(), severity, event["product_id"], event["available"])
            self._state.alerts.append(alert)
            self._state.alert_counts[severity] += 1
            self._on_alert(alert)

    def _read_dead_letter(self, record: Any) -> None:  # noqa: ANN401 - as above
        headers = {name: value.decode("utf-8", "replace") for name, value in record.headers if value is not None}
        reason = headers.get("x-dlq-reason", "")
        message = headers.get("__dlq.errors.message", "")
        topic = record.topic.removesuffix(_DLQ_SUFFIX)
        self._state.dead_letters.append(DeadLetter(self._state.now(), topic, reason, message))
        self._state.dead_letter_counts[reason] += 1


class TableWatch:
    """Reads stock, progress and the number of unpublished rows."""

    def __init__(self, connection: asyncpg.Connection, state: DemoState) -> None:
        self._connection = connection
        self._state = state

    @classmethod
    async def connect(cls, url: str, state: DemoState) -> "TableWatch":
        """Connect to the database."""
        return cls(await connect(url, "inventory-demo"), state)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.close(timeout=TIMEOUT_SECONDS)

    async def run(self) -> None:
        """Poll five times a second until cancelled."""
        while True:
            await self.poll()
            await asyncio.sleep(POLL_SECONDS)

    async def poll(self) -> None:
        """Read once."""
        state = self._state
        stock = await self._connection.fetch(
            "SELECT product_id, on_hand, reserved, low_stock_threshold, stock_status FROM inventory ORDER BY product_id"
        )
        state.update_stock([StockRow(*row) for row in stock])
        progress = await self._connection.fetch("SELECT topic, partition, next_offset FROM stream_progress")
        state.update_progress({(row["topic"], row["partition"]): row["next_offset"] for row in progress})
        # Read after the progress: a batch's outgoing rows are visible as soon as its progress is.
        state.outbox, state.written = await self._connection.fetchrow(_OUTGOING)
        state.polls += 1


class MetricsWatch:
    """Reads the worker's count of events by disposition."""

    def __init__(self, port: int, state: DemoState) -> None:
        self._port = port
        self._state = state

    async def run(self) -> None:
        """Poll twice a second until cancelled; a poll without an answer is skipped."""
        while True:
            await self.poll()
            await asyncio.sleep(METRICS_SECONDS)

    async def poll(self) -> None:
        """Read once."""
        text = await asyncio.to_thread(get, self._port, "/metrics")
        if text is None:
            return
        dispositions = self._state.dispositions
        dispositions.clear()
        for family in text_string_to_metric_families(text):
            if family.name == _EVENTS:
                for sample in family.samples:
                    dispositions[sample.labels["outcome"]] += int(sample.value)
