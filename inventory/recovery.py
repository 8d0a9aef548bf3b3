"""What `inventory recover` and `inventory stream` show and change: positions of Kafka, group and database, and gaps."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError

from inventory import kafka
from inventory.database import connection
from inventory.errors import OperatorError
from inventory.settings import Settings
from inventory.topics import existing_partitions
from schemas.topics import TOPICS_IN
from storage import stream
from storage.stream import Gap, GapCause, Position, RecordedGap
from workers.consuming.placement import LogEnds, start_of

KAFKA_SECONDS: Final = 30.0
MAX_GAPS: Final = 1000


class PartitionState(NamedTuple):
    """One partition: what Kafka has, both positions, and what a worker that starts now would do.

    `database` is None where nothing was read into it, `group` where the group has no offset. `starts_at` is the first
    offset to be read, `reads_again` how many records were read before by the group, `loses` how many Kafka deleted
    unread.
    """

    topic: str
    partition: int
    first: int
    end: int
    group: int | None
    database: int | None
    starts_at: int
    reads_again: int
    loses: int


class StreamState(NamedTuple):
    """All partitions of the topics in, and the newest gaps."""

    partitions: list[PartitionState]
    gaps: list[RecordedGap]

    @property
    def needs_attention(self) -> bool:
        """Whether records were lost, or will be, that nobody has acknowledged."""
        return any(gap.accepted_at is None for gap in self.gaps) or any(state.loses for state in self.partitions)


async def read_state(settings: Settings) -> StreamState:
    """Read everything; changes nothing."""
    async with connection(settings) as opened:
        stored = await stream.positions(opened)
        gaps = await stream.newest_gaps(opened, MAX_GAPS)
    prefix = settings.kafka_topic_prefix
    async with kafka.admin_client(settings) as admin:
        counts = await existing_partitions(admin)
    places = [
        TopicPartition(prefix + topic, number) for topic in TOPICS_IN for number in range(counts.get(prefix + topic, 0))
    ]
    async with _consumer(settings) as consumer:
        first = await consumer.beginning_offsets(places)
        end = await consumer.end_offsets(places)
        committed = {place: await consumer.committed(place) for place in places}
    states = []
    for place in places:
        topic = place.topic.removeprefix(prefix)
        row = stored.get((topic, place.partition))
        position = row.next_offset if row is not None and row.next_offset > 0 else None
        group = committed[place]
        start = start_of(position, group, LogEnds(first[place], end[place]))
        states.append(
            PartitionState(
                topic,
                place.partition,
                first[place],
                end[place],
                group,
                position,
                start.offset,
                0 if group is None or start.recreated else max(group - start.offset, 0),
                0 if start.gap is None else start.gap[1] - start.gap[0],
            )
        )
    return StreamState(states, gaps)


async def accept_gaps(settings: Settings, operator: str) -> list[RecordedGap]:
    """Acknowledge every recorded gap; returns those that were open."""
    async with connection(settings) as opened:
        return await stream.accept_gaps(opened, operator)


async def skip(settings: Settings, position: Position, operator: str) -> Gap:
    """Move a partition forward without reading what lies before; returns what is skipped.

    Raises OperatorError unless all workers are stopped, and for an offset that is not ahead.
    """
    place = TopicPartition(settings.kafka_topic_prefix + position.topic, position.partition)
    state = next((one for one in (await read_state(settings)).partitions if one[:2] == position[:2]), None)
    if state is None:
        raise OperatorError(f"there is no partition {position.partition} of {position.topic}")
    if not state.starts_at < position.next_offset <= state.end:
        raise OperatorError(
            f"a worker would read {position.topic}, partition {position.partition}, from offset {state.starts_at} to "
            f"{state.end}; give an offset behind the first and not behind the last"
        )
    # The group first: it refuses while a worker runs, and the lower of both positions counts.
    async with _consumer(settings) as consumer:
        consumer.assign([place])
        try:
            await consumer.commit({place: position.next_offset})
        except CommitFailedError as error:
            raise OperatorError(
                "stop all workers of the group first: they would go on from their own position"
            ) from error
    gap = Gap(position.topic, position.partition, state.starts_at, position.next_offset)
    async with connection(settings) as opened, opened.transaction():
        await stream.raise_positions(opened, [position])
        await stream.add_gaps(opened, [gap], GapCause.SKIPPED, operator)
    return gap


@asynccontextmanager
async def _consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """Give a consumer that knows the group without joining it; raises OperatorError if Kafka cannot be used."""
    client = AIOKafkaConsumer(
        **kafka.client_options(settings), group_id=settings.kafka_group_id, enable_auto_commit=False
    )
    try:
        async with asyncio.timeout(KAFKA_SECONDS):
            await client.start()
            yield client
    except (KafkaError, OSError) as error:
        raise kafka.unreachable(settings, error) from error
    finally:
        await client.stop()
