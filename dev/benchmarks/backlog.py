"""A backlog in Kafka that becomes visible at once, when the measured program is ready to read it.

The records are written in one transaction, and every contestant reads committed records only. So programs start, join
their group and connect before the clock starts, and writing the backlog is not part of the measurement.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined] # its stubs forget one

from dev.benchmarks.errors import BenchmarkError
from dev.records import ProducedRecord
from inventory.kafka import admin_client, topic_layout
from inventory.settings import Settings
from inventory.topics import create_topics, wanted_topics
from schemas.topics import TOPICS_IN

POLL_SECONDS = 0.02
READY_SECONDS = 60.0
_ADMIN_SECONDS = 30.0
# Errors arrive as exceptions and delivery reports; do not print them too.
QUIET = {"log_level": 0}
_QUEUE = 2_000_000
_SHOW_EVERY = 10_000

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Backlog:
    """Records that are hidden from `group` until `reveal()`; `ends` are the partitions' end offsets."""

    group: str
    count: int
    ends: dict[tuple[str, int], int]
    reveal: Callable[[], None]


class Topics:
    """All topics of the contracts, under a prefix of their own."""

    def __init__(self, bootstrap_servers: str, partitions: int) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.prefix = f"bench-{uuid.uuid4().hex[:8]}."
        self._settings = Settings(
            kafka_bootstrap_servers=bootstrap_servers,
            kafka_topic_prefix=self.prefix,
            kafka_topic_partitions=partitions,
        )
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, **QUIET})
        self._incoming = [(self.prefix + topic, number) for topic in TOPICS_IN for number in range(partitions)]

    async def create(self) -> None:
        """Create the topics and wait until every partition has a leader."""
        await create_topics(lambda: admin_client(self._settings), topic_layout(self._settings))
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                self._ends()
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(POLL_SECONDS)
            else:
                return

    def delete(self) -> None:
        """Delete the topics."""
        names = [topic.name for topic in wanted_topics(topic_layout(self._settings))]
        for deleted in self._admin.delete_topics(names, operation_timeout=_ADMIN_SECONDS).values():
            deleted.result(_ADMIN_SECONDS)

    def new_group(self) -> str:
        """Create a consumer group whose offsets are the topics' current ends; returns its name."""
        group = f"{self.prefix}{uuid.uuid4().hex[:8]}"
        ends = [TopicPartition(topic, number, offset) for (topic, number), offset in self._ends().items()]
        request = [ConsumerGroupTopicPartitions(group, ends)]
        for altered in self._admin.alter_consumer_group_offsets(request).values():
            altered.result(_ADMIN_SECONDS)
        return group

    @contextmanager
    def hidden(self, records: Iterable[ProducedRecord], count: int, progress: Progress) -> Iterator[Backlog]:
        """Write records in a transaction that `reveal()` commits; without it they are aborted."""
        group = self.new_group()
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                **QUIET,
                "transactional.id": f"{group}-generator",
                "transaction.timeout.ms": 600_000,
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "batch.size": 1024 * 1024,
                "queue.buffering.max.messages": _QUEUE,
                "queue.buffering.max.kbytes": 2_000_000,
            }
        )
        producer.init_transactions(_ADMIN_SECONDS)
        producer.begin_transaction()
        failures: list[str] = []
        revealed = False

        def reveal() -> None:
            nonlocal revealed
            producer.commit_transaction(_ADMIN_SECONDS)
            revealed = True

        self._produce(producer, records, count, progress, failures)
        if producer.flush(_ADMIN_SECONDS * 4) or failures:
            raise BenchmarkError(f"could not write the backlog: {failures[:3] or 'time-out'}")
        try:
            yield Backlog(group, count, self._ends(), reveal)
        finally:
            if not revealed:
                producer.abort_transaction(_ADMIN_SECONDS)

    def _produce(
        self,
        producer: Producer,
        records: Iterable[ProducedRecord],
        count: int,
        progress: Progress,
        failures: list[str],
    ) -> None:
        def note(error: Any, _message: Any) -> None:  # noqa: ANN401 - confluent-kafka is published without types
            if error is not None:
                failures.append(str(error))

        for number, record in enumerate(records, start=1):
            producer.produce(
                self.prefix + record.topic,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
                timestamp=record.timestamp_ms,
                on_delivery=note,
            )
            if number % _SHOW_EVERY == 0 or number == count:
                producer.poll(0)
                progress("writing the backlog", number, count)

    def wait_until_stable(self, group: str, members: int, alive: Callable[[], None]) -> None:
        """Wait until `members` share all partitions; `alive` raises if a program has ended."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            alive()
            try:
                found = self._admin.describe_consumer_groups([group])[group].result(_ADMIN_SECONDS)
            except KafkaException:
                found = None
            if found is not None and found.state.name == "STABLE" and len(found.members) == members:
                assigned = sum(len(member.assignment.topic_partitions) for member in found.members)
                if assigned == len(self._incoming):
                    return
            time.sleep(POLL_SECONDS)
        raise BenchmarkError(f"the group of {members} was not ready within {READY_SECONDS:.0f} s")

    def remaining(self, backlog: Backlog) -> int:
        """Return how many offsets of the backlog the group has not committed."""
        committed = self.committed(backlog.group)
        return sum(max(end - max(committed[place], 0), 0) for place, end in backlog.ends.items())

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """Return the group's offset in each incoming partition; negative where it has none."""
        asked = [TopicPartition(topic, number) for topic, number in self._incoming]
        request = [ConsumerGroupTopicPartitions(group, asked)]
        answer = self._admin.list_consumer_group_offsets(request)[group].result(_ADMIN_SECONDS)
        return {(place.topic, place.partition): place.offset for place in answer.topic_partitions}

    def _ends(self) -> dict[tuple[str, int], int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # same reason
        asked = {TopicPartition(topic, number): latest for topic, number in self._incoming}
        found = self._admin.list_offsets(asked, request_timeout=_ADMIN_SECONDS)
        return {(place.topic, place.partition): result.result().offset for place, result in found.items()}
