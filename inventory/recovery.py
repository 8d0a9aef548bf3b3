"""What `inventory recover` and `inventory stream` show and change: positions of Kafka, group and database, and gaps."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError

from inventory.errors import OperatorError
from inventory.topics import OpenAdmin, existing_partitions
from schemas.topics import TOPICS_IN
from storage import stream
from storage.database import Connection
from storage.stream import Gap, GapCause, Position, RecordedGap
from workers.consuming.placement import LogEnds, start_of

MAX_GAPS: Final = 1000


@dataclass(frozen=True, slots=True)
class Group:
    """The workers' group and its cluster; both functions raise OperatorError if Kafka cannot be used.

    `open_consumer` gives a consumer that reads and commits the group's offsets without joining it.
    """

    open_admin: OpenAdmin
    open_consumer: Callable[[], AbstractAsyncContextManager[AIOKafkaConsumer]]
    topic_prefix: str


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


async def read_state(connection: Connection, group: Group) -> StreamState:
    """Read everything; changes nothing."""
    stored = await stream.positions(connection)
    gaps = await stream.newest_gaps(connection, MAX_GAPS)
    prefix = group.topic_prefix
    async with group.open_admin() as admin:
        counts = await existing_partitions(admin)
    places = [
        TopicPartition(prefix + topic, number) for topic in TOPICS_IN for number in range(counts.get(prefix + topic, 0))
    ]
    async with group.open_consumer() as consumer:
        first = await consumer.beginning_offsets(places)
        end = await consumer.end_offsets(places)
        committed = {place: await consumer.committed(place) for place in places}
    states = []
    for place in places:
        topic = place.topic.removeprefix(prefix)
        row = stored.get((topic, place.partition))
        position = row.next_offset if row is not None and row.next_offset > 0 else None
        offset = committed[place]
        start = start_of(position, offset, LogEnds(first[place], end[place]))
        states.append(
            PartitionState(
                topic,
                place.partition,
                first[place],
                end[place],
                offset,
                position,
                start.offset,
                0 if offset is None or start.recreated else max(offset - start.offset, 0),
                0 if start.gap is None else start.gap[1] - start.gap[0],
            )
        )
    return StreamState(states, gaps)


async def skip(connection: Connection, group: Group, position: Position, operator: str) -> Gap:
    """Move a partition forward without reading what lies before; returns what is skipped.

    Raises OperatorError unless all workers are stopped, and for an offset that is not ahead.
    """
    place = TopicPartition(group.topic_prefix + position.topic, position.partition)
    states = (await read_state(connection, group)).partitions
    state = next((one for one in states if one[:2] == position[:2]), None)
    if state is None:
        raise OperatorError(f"there is no partition {position.partition} of {position.topic}")
    if not state.starts_at < position.next_offset <= state.end:
        raise OperatorError(
            f"a worker would read {position.topic}, partition {position.partition}, from offset {state.starts_at} to "
            f"{state.end}; give an offset behind the first and not behind the last"
        )
    # The group first: it refuses while a worker runs, and the lower of both positions counts.
    async with group.open_consumer() as consumer:
        consumer.assign([place])
        try:
            await consumer.commit({place: position.next_offset})
        except CommitFailedError as error:
            raise OperatorError(
                "stop all workers of the group first: they would go on from their own position"
            ) from error
    gap = Gap(position.topic, position.partition, state.starts_at, position.next_offset)
    async with connection.transaction():
        await stream.raise_positions(connection, [position])
        await stream.add_gaps(connection, [gap], GapCause.SKIPPED, operator)
    return gap
