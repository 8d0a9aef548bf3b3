"""Where partitions are read from: the database is the authority on positions, not the group's offsets.

A database that was restored, or whose lagging standby was promoted, is behind the group's offsets. Reading starts at
the lower of the two, and the inbox suppresses what was applied already. What Kafka no longer has is a gap: it is
recorded, logged and counted, and readiness is refused until an operator acknowledges it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from engine import metrics
from engine.backoff import Backoff
from storage import stream
from storage.database import Pool
from storage.errors import in_words, is_contention, is_unavailable
from storage.stream import Gap, GapCause, Position, StoredPosition
from workers.consuming.anchoring import AnchorKeeper
from workers.consuming.client import RecordClient

logger = logging.getLogger(__name__)

ATTEMPT_SECONDS = 20.0
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0


class LogEnds(NamedTuple):
    """What Kafka has of a partition: its first offset, and the one after its last."""

    first: int
    end: int


class Start(NamedTuple):
    """Where a partition is read from, the records it lacks (from, to), and whether its topic was recreated."""

    offset: int
    gap: tuple[int, int] | None = None
    recreated: bool = False


def start_of(stored: int | None, committed: int | None, log: LogEnds) -> Start:
    """Return where to read a partition from.

    `stored` is the database's position, None where nothing was read into it; `committed` the group's offset, where it
    has one. A lower offset of the group wins, so that an operator can have records read again.
    """
    if stored is not None and stored > log.end:
        return Start(log.first, recreated=True)
    # A database that knows nothing of a partition which the group has read has lost everything.
    expected = stored if stored is not None else (log.first if committed is None else 0)
    gap = (expected, log.first) if log.first > expected else None
    wanted = expected if committed is None else min(expected, committed)
    return Start(max(wanted, log.first), gap)


class Placement:
    """Places the client at the start of each partition, before its first record is read; `prefix` is the topics'.

    While the database or Kafka cannot answer, nothing is read: a guess could lose records.
    """

    def __init__(
        self, pool: Pool, prefix: str, anchors: AnchorKeeper, batch_finished: Callable[[], Awaitable[None]]
    ) -> None:
        self._pool = pool
        self._prefix = prefix
        self._anchors = anchors
        self._batch_finished = batch_finished
        # Why the database cannot be asked where to read from; None while it can.
        self.waits_because: str | None = None

    async def place(self, client: RecordClient, assigned: Collection[TopicPartition]) -> None:
        """Look up where the newly assigned partitions are read from, and let the client read them from there."""

        async def find() -> dict[TopicPartition, Start]:
            committed = await client.committed_offsets(assigned)
            logs = await _log_ends(client, assigned)
            async with self._pool.acquire() as connection:
                stored = await stream.positions(connection)
            own = {partition: stored.get(self._name(partition)) for partition in assigned}
            anew = await _recreated(client, own, committed)
            starts = {
                partition: Start(logs[partition].first, recreated=True)
                if partition in anew
                else start_of(_read_up_to(own[partition]), committed.get(partition), logs[partition])
                for partition in assigned
            }
            await self._store(starts, logs)
            return starts

        starts = await self._until_found(find) if assigned else {}
        client.start_at({partition: start.offset for partition, start in starts.items()})

    async def place_again(
        self, client: RecordClient, positions: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Move partitions past offsets that Kafka does not have; returns the new offsets."""
        # Records in flight lie before the gap: were it stored now and the process ended, they would not be read again.
        await self._batch_finished()

        async def find() -> dict[TopicPartition, Start]:
            logs = await _log_ends(client, positions)
            starts = {partition: start_of(offset, None, logs[partition]) for partition, offset in positions.items()}
            await self._store(starts, logs)
            return starts

        starts = await self._until_found(find)
        moved = {partition: start.offset for partition, start in starts.items() if partition in client.assignment()}
        for partition, offset in moved.items():
            client.seek(partition, offset)
        return moved

    async def _until_found(
        self, find: Callable[[], Awaitable[dict[TopicPartition, Start]]]
    ) -> dict[TopicPartition, Start]:
        backoff = Backoff(FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS)
        warned = False
        try:
            while True:
                try:
                    async with asyncio.timeout(ATTEMPT_SECONDS):
                        return await find()
                except Exception as error:
                    unavailable = is_unavailable(error) or is_contention(error)
                    if not (unavailable or isinstance(error, KafkaError)):
                        raise
                    self.waits_because = in_words(error) if unavailable else None
                    if not warned:
                        logger.warning(
                            "The offsets to read from cannot be looked up (%s); nothing is read until they can",
                            in_words(error),
                        )
                        warned = True
                    await backoff.wait()
        finally:
            self.waits_because = None

    async def _store(self, starts: Mapping[TopicPartition, Start], logs: Mapping[TopicPartition, LogEnds]) -> None:
        """Store new positions and gaps in one transaction, and report them."""
        gaps = [Gap(*self._name(partition), *start.gap) for partition, start in starts.items() if start.gap]
        anew = [
            Position(*self._name(partition), start.offset) for partition, start in starts.items() if start.recreated
        ]
        # Positions are at least the first offset that Kafka has: each gap is recorded once, not at every start.
        raised = [Position(*self._name(partition), logs[partition].first) for partition in starts]
        async with self._pool.acquire() as connection, connection.transaction():
            await stream.raise_positions(connection, raised)
            await stream.set_back(connection, anew)
            await stream.add_gaps(connection, gaps, GapCause.DELETED)
            stored = await stream.positions(connection)
        self._anchors.started_at(
            [Position(*name, stored[name].next_offset) for name in map(self._name, starts) if name in stored]
        )
        for gap in gaps:
            metrics.GAP_RECORDS.labels(gap.topic).inc(gap.to_offset - gap.from_offset)
            logger.error(
                "Kafka deleted records %d to %d of %s, partition %d, before they were read; this worker goes on behind "
                "them. `inventory recover` shows them, and acknowledges them with --accept-gap",
                gap.from_offset,
                gap.to_offset - 1,
                gap.topic,
                gap.partition,
            )
        for position in anew:
            logger.warning(
                "Partition %d of %s is not the one that was read before: its topic was deleted and created again; it "
                "is read from its beginning, offset %d",
                position.partition,
                position.topic,
                position.next_offset,
            )

    def _name(self, partition: TopicPartition) -> tuple[str, int]:
        return partition.topic.removeprefix(self._prefix), partition.partition


def _read_up_to(stored: StoredPosition | None) -> int | None:
    """Return a stored position; None for a partition that is only registered."""
    return stored.next_offset if stored is not None and stored.next_offset > 0 else None


async def _log_ends(client: RecordClient, partitions: Collection[TopicPartition]) -> dict[TopicPartition, LogEnds]:
    first = await client.beginning_offsets(list(partitions))
    end = await client.end_offsets(list(partitions))
    return {partition: LogEnds(first[partition], end[partition]) for partition in partitions}


async def _recreated(
    client: RecordClient,
    stored: Mapping[TopicPartition, StoredPosition | None],
    committed: Mapping[TopicPartition, int],
) -> set[TopicPartition]:
    """Return the partitions whose topic was recreated: records below the stored position are newer than that position.

    Only where the group has no offset: Kafka deletes offsets together with their topic, or when the group was inactive
    for long. A producer whose clock is ahead can make us read a partition again; the inbox suppresses the records.
    """
    suspected = {
        partition: position
        for partition, position in stored.items()
        if position is not None and position.next_offset > 0 and partition not in committed
    }
    if not suspected:
        return set()
    found = await client.offsets_for_times(
        {partition: int(position.updated_at.timestamp() * 1000) for partition, position in suspected.items()}
    )
    return {
        partition
        for partition, position in suspected.items()
        if (newer := found[partition]) is not None and newer.offset < position.next_offset
    }
