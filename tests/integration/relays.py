"""Relays on a broker, for the tests of what they publish, set aside and dead-letter."""

import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any
from uuid import uuid5

import pytest
from aiokafka import ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from dev.records import ConsumedRecord as Record
from engine.outbox_rows import NAMESPACE
from engine.tasks import DeadLetterTask
from storage import save
from storage.dead_letters import DeadLetter
from storage.outbox import shard_of
from storage.save import OutboxRow
from tests.integration.publishing import PublishingStage
from tests.integration.shop import T0
from tests.integration.stream import eventually, read
from workers.consuming.records import InvalidRecord, read_records
from workers.publishing.relay import Relay, RelayOptions

# A producer that is stopped while it opens a connection leaves that to the garbage collector, in aiokafka.
drops_producers = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

TOPIC = "inventory.reservations"


class RelayStage(PublishingStage):
    """Relays on a broker, and the outbox that they publish."""

    application = "inventory-relay"

    def relay(self, **changes: Any) -> Relay:
        """Return a relay that does nothing yet."""
        options = RelayOptions(self.prefix, "the-group", "1.2.3", poll_seconds=0.05, batch_size=1000)
        made = Relay(self.url, self.producer_options, options._replace(**changes), lambda: datetime.now(UTC))
        self.made.append(made)
        return made

    def start(self, **changes: Any) -> Relay:
        """Return a relay that runs."""
        made = self.relay(**changes)
        self.run(made)
        return made

    async def write(self, *rows: tuple[str, str], topic: str = TOPIC) -> None:
        """Write events of (key, body) to the outbox."""
        made = [
            OutboxRow(
                str(uuid5(NAMESPACE, f"{key} {body}")), topic, key, "type", json.dumps(body), None, T0, shard_of(key)
            )
            for key, body in rows
        ]
        async with self.shop.pool.acquire() as connection:
            await save.append_outbox(connection, made)

    async def read(self, topic: str, at_least: int) -> list[ConsumerRecord]:
        """Return a topic's records, at least so many."""
        return await read(self.bootstrap_servers, self.prefix + topic, at_least)

    async def unmarked(self) -> int:
        """Return how many events are not marked as published."""
        number: int = await self.shop.pool.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL")
        return number

    async def all_marked(self) -> None:
        """Wait until every event is marked as published."""

        async def nothing_left() -> bool:
            return await self.unmarked() == 0

        await eventually(nothing_left, why="unpublished events are left in the outbox")


def bodies_by_key(records: list[ConsumerRecord]) -> dict[str, list[str]]:
    """Return the bodies of each key in the order of the records."""
    found: dict[str, list[str]] = defaultdict(list)
    for record in records:
        found[record.key.decode()].append(json.loads(record.value))
    return dict(found)


def unreadable(*records: Record) -> list[DeadLetter]:
    """Return the dead letters of records that cannot be read."""
    read_: list[Any] = read_records(records, "", T0)
    assert all(isinstance(one, InvalidRecord) for one in read_)
    return [one.dead_letter for one in read_]


async def create_topics(admin: AIOKafkaAdminClient, *topics: NewTopic) -> None:
    """Create topics and wait until each partition has a leader."""
    await admin.create_topics(list(topics))
    names = [topic.name for topic in topics]

    async def ready() -> bool:
        described = await admin.describe_topics(names)
        return all(
            topic["error_code"] == 0 and all(partition["leader"] >= 0 for partition in topic["partitions"])
            for topic in described
        )

    await eventually(ready, why="the topics have no leaders")


async def keep(stage: RelayStage, *kept: DeadLetter) -> None:
    """Write dead letters to their table."""
    await stage.shop.run([DeadLetterTask(dead_letter) for dead_letter in kept])
