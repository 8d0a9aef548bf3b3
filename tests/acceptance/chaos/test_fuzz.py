"""Near-valid events and broken bytes, from record to PostgreSQL: dead letters at most, and no effect on neighbours."""

import asyncio
import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dev.chaos import poison
from dev.records import TOPICS_IN, ConsumedRecord
from domain.commands import CreateProduct
from domain.model import Cause, Policy
from engine.execute import execute
from engine.tasks import DeadLetterTask, EventTask, Task, TaskDisposition, command_task
from storage.database import Pool, open_pool
from workers.consuming.records import InvalidRecord, read_records

CONTRACTS = Path(__file__).parents[3] / "docs" / "contracts" / "events"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
DISPOSITIONS = set(TaskDisposition)

# Few names, so that events meet the state left by earlier ones.
names = st.sampled_from(("a", "b", "c", "\U0001f600", "x" * 256, " ", "'; --", "\x7f", "\ud7ff")) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=5
)
odd_values: st.SearchStrategy[Any] = st.sampled_from(
    (None, True, "3", 1.5, -1, 0, 2**63 - 1, 2**63, 10**30, [], {}, "\x00", "x" * 257, [[[]]], {"a": None})
)


def from_schema(schema: Mapping[str, Any], root: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Return values of an exported contract, including its bounds; conditions between fields may be violated."""
    if "$ref" in schema:
        return from_schema(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema and "properties" not in schema:
        return st.one_of([from_schema(option, root) for option in schema["anyOf"]])
    if schema.get("type") == "object":
        required = schema.get("required", ())
        fields = {name: from_schema(field, root) for name, field in schema.get("properties", {}).items()}
        return st.fixed_dictionaries(
            {name: fields[name] for name in required},
            optional={name: value for name, value in fields.items() if name not in required},
        )
    if schema.get("type") == "array":
        return st.lists(from_schema(schema["items"], root), min_size=schema.get("minItems", 0), max_size=4)
    return _plain_value(schema)


def _plain_value(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    match schema.get("type"):
        case "integer":
            low, high = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
            return st.integers(low, min(high, low + 5)) | st.sampled_from((low, high))
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            return names.filter(lambda text: len(text) >= schema.get("minLength", 0))


EVENTS = {
    topic: from_schema(schema, schema)
    for topic in TOPICS_IN
    for schema in [json.loads((CONTRACTS / f"{topic}.json").read_text())]
}
times = st.sampled_from(
    ("2026-03-01T11:00:00Z", "2026-03-02T11:00:00+14:00", "1969-12-31T23:59:59Z", "2999-12-31T23:59:59Z", "now", 5)
)
headers = st.lists(
    st.tuples(
        st.sampled_from(("ce_id", "CE_ID", "ce_source", "ce_type", "ce_time", "content-type", "traceparent", "", "x")),
        st.sampled_from((None, b"", b"1", b"\xff\xfe\x00", b"order.created", b"application/cloudevents+json", b"\x00")),
    ),
    max_size=4,
)


@st.composite
def records(draw: st.DrawFn) -> tuple[str, bytes | None, bytes | None, Sequence[tuple[str, bytes | None]], int]:
    """Draw a valid event, or one with a wrong field, header or few bytes."""
    topic = draw(st.sampled_from(TOPICS_IN))
    data = draw(EVENTS[topic])
    if draw(st.integers(0, 3)) == 0 and data:
        data = {**data, draw(st.sampled_from(sorted(data))): draw(odd_values)}
    body = {"event_id": draw(names), "occurred_at": draw(times), **data}
    value: bytes | None = json.dumps(body).encode()
    if draw(st.integers(0, 2)) == 0:
        value = draw(st.none() | st.binary(max_size=30) | st.integers(0, 2**32).map(str).map(_mutated(value or b"")))
    found = draw(headers) if draw(st.booleans()) else []
    return (
        topic,
        draw(st.none() | st.binary(max_size=5)),
        value,
        found,
        draw(st.sampled_from((-1, 0, NOW_MS, 2**63 - 1))),
    )


def _mutated(value: bytes) -> Any:
    return lambda seed: poison.mutate(value, seed)


class _Warehouse:
    """A database with one product, and valid adjustments that add one unit each."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.added = 0
        self._offsets = itertools.count()

    async def open(self) -> None:
        for product in ("good", "a", "b"):
            command = CreateProduct(Cause("test", f"new-{product}", NOW), product, 10, None)
            await execute(self.pool, [command_task(command)], Policy(), NOW)

    def record(self, topic: str, key: bytes | None, value: bytes | None, found: Any, timestamp: int) -> ConsumedRecord:
        return ConsumedRecord(topic, 0, next(self._offsets), timestamp, key, value, found)

    def neighbour(self) -> ConsumedRecord:
        self.added += 1
        body = {
            "event_id": f"neighbour-{self.added}",
            "source": "neighbours",
            "occurred_at": NOW.isoformat(),
            "product_id": "good",
            "operation": "ADD",
            "quantity": 1,
            "reason": "neighbour",
        }
        return self.record("inventory.adjustment", b"good", json.dumps(body).encode(), (), NOW_MS)

    async def take(self, batch: Sequence[ConsumedRecord]) -> list[str]:
        """Apply a batch as the consumer does; returns what became of each record."""
        tasks: list[Task] = [
            DeadLetterTask(item.dead_letter)
            if isinstance(item, InvalidRecord)
            else EventTask(item.command, item.event.digest, item.record, item.event.type)
            for item in read_records(batch, "", NOW)
        ]
        return [verdict.disposition for verdict in (await execute(self.pool, tasks, Policy(), NOW)).verdicts]

    async def on_hand(self) -> int:
        async with self.pool.acquire() as connection:
            found: int = await connection.fetchval("SELECT on_hand FROM inventory WHERE product_id = 'good'")
        return found


def test_no_record_stops_the_worker_or_affects_its_neighbours(database_url: str) -> None:
    """Every record of a batch has a disposition, and the good ones around the bad are applied."""
    with asyncio.Runner() as runner:
        pool = runner.run(open_pool(database_url, 2))
        warehouse = _Warehouse(pool)
        runner.run(warehouse.open())

        @settings(max_examples=150, suppress_health_check=list(HealthCheck))
        @given(drawn=st.lists(records(), min_size=1, max_size=6))
        def judge(drawn: list[Any]) -> None:
            batch = [warehouse.neighbour(), *(warehouse.record(*record) for record in drawn), warehouse.neighbour()]
            dispositions = runner.run(warehouse.take(batch))
            assert len(batch) == len(dispositions)
            assert set(dispositions) <= DISPOSITIONS
            assert ("applied", "applied") == (dispositions[0], dispositions[-1])

        judge()
        assert 10 + warehouse.added == runner.run(warehouse.on_hand())
        runner.run(pool.close())
