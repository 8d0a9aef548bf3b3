"""The stream's clock: how far in event time each partition has been read, so that holds expire by it.

A partition that was read to its end stands at the time at which the broker said that there is no more;
one that was not, at the newest event read. The rows are written with batches, now and then, in their
transactions, and once a second for partitions that are idle (`storage.save.save_progress`).
"""

import asyncio
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError

from engine import metrics
from storage.save import PartitionProgress
from workers.consuming.records import DecodedRecord, InvalidRecord

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A partition at its end is as far as the broker's word that there is no more, less what clocks may
# differ and events may spend on their way.
CAUGHT_UP_MARGIN = timedelta(seconds=1)
POSITION_TIMEOUT_SECONDS = 0.2

Offsets = Mapping[TopicPartition, int]


class WatermarkTracker:
    """Keeps account of what one consumer has processed of its partitions; `prefix` is the topics' prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._processed: dict[TopicPartition, int] = {}
        self._positions_before: Offsets = {}
        self._answers: dict[TopicPartition, tuple[int | None, int]] = {}
        self._unread: set[TopicPartition] = set()

    def meet(self, partitions: Iterable[TopicPartition]) -> None:
        """Hear of partitions: until they are read they hold the clock back, from the next rows on."""
        self._unread.update(partitions)

    def written(self, rows: Iterable[PartitionProgress]) -> None:
        """Hear that `rows` are committed; partitions met since they were made stay new."""
        known = {row[:2] for row in rows}
        self._unread = {partition for partition in self._unread if self._row(partition, 0, EPOCH)[:2] not in known}

    def processed(self, offsets: Offsets) -> None:
        """Hear that everything before `offsets` is committed."""
        self._processed |= offsets

    def forget(self) -> None:
        """Hear that the partitions go to others."""
        self._processed.clear()
        self._positions_before = {}
        self._answers.clear()

    def unread(self, known: Container[TopicPartition] = ()) -> list[PartitionProgress]:
        """Return first rows for partitions that are new to the clock."""
        return [self._row(partition, 0, EPOCH) for partition in self._unread if partition not in known]

    def of_batch(
        self,
        client: AIOKafkaConsumer | None,
        records: Sequence[ConsumerRecord],
        items: Sequence[DecodedRecord | InvalidRecord],
        now: datetime,
    ) -> list[PartitionProgress]:
        """Return the rows of the batch's partitions: the next offset, and how far in event time it reads.

        An event counts at the earlier of its own time and its record's, so that one producer's fast
        clock does not carry the stream's clock away.
        """
        times: dict[tuple[str, int], datetime] = {}
        for record, item in zip(records, items, strict=True):
            if isinstance(item, DecodedRecord):
                place = (record.topic, record.partition)
                at = min(item.event.occurred_at, item.record.timestamp or now, now)
                if at > times.get(place, EPOCH):
                    times[place] = at
        return [
            self._row(partition, offset, max(times.get(partition, EPOCH), self._read_until(client, partition, offset)))
            for partition, offset in next_offsets(records).items()
        ]

    def of_idle(self, client: AIOKafkaConsumer, settled: Offsets) -> list[PartitionProgress]:
        """Return rows for those partitions that have nothing beyond what was processed."""
        rows = []
        for partition, position in settled.items():
            watermark = self._read_until(client, partition, position)
            if watermark > EPOCH:
                rows.append(self._row(partition, position, watermark))
        return rows

    def settle(self, positions: Offsets, *, quiet: bool) -> Offsets:
        """Return the positions up to which everything was processed; `quiet`: no batch since the last call.

        Between aiokafka's hand-over and our handler a batch is seen by nobody. A position that is our own
        last offset has been processed. So has one that stood still through a quiet second, even where control
        records (of producers' transactions) keep it from being the last record's offset plus one.
        """
        before, self._positions_before = self._positions_before, positions
        return {
            partition: position
            for partition, position in positions.items()
            if self._processed.get(partition) == position or (quiet and before.get(partition) == position)
        }

    def measure_lag(self, client: AIOKafkaConsumer, positions: Offsets) -> int:
        """Set the gauges of each partition, and return how many records wait in all."""
        total = 0
        for partition, position in positions.items():
            end = client.highwater(partition)
            waits = end is not None and position < end
            lag = max(end - self._processed.get(partition, position), 0) if waits else 0
            total += lag
            metrics.CONSUMER_LAG.labels(*self._labels(partition)).set(lag)
            asked = client.last_poll_timestamp(partition)
            if asked is not None:
                metrics.LAST_POLL.set(asked / 1000)
        return total

    def drop_gauges(self, partitions: Iterable[TopicPartition]) -> None:
        """Take partitions that went to others off the gauges."""
        for partition in partitions:
            metrics.CONSUMER_LAG.remove(*self._labels(partition))

    def _read_until(self, client: AIOKafkaConsumer | None, partition: TopicPartition, next_offset: int) -> datetime:
        """Return the time up to which the broker said that there is nothing beyond `next_offset`; else the epoch.

        aiokafka notes when an answer was read, but it speaks of the time when it was asked: it may have lain in the
        socket for hours while this process was stopped. It was asked after the one before it was read; that counts.
        """
        if client is None or partition not in client.assignment():
            return EPOCH
        end, read = client.highwater(partition), client.last_poll_timestamp(partition)
        if end is None or read is None:
            return EPOCH
        before, last = self._answers.get(partition, (None, None))
        if read != last:
            before, last = last, read
            self._answers[partition] = (before, last)
        if before is None or next_offset < end:
            return EPOCH
        return datetime.fromtimestamp(before / 1000, UTC) - CAUGHT_UP_MARGIN

    def _row(self, partition: TopicPartition, offset: int, watermark: datetime) -> PartitionProgress:
        return PartitionProgress(partition.topic.removeprefix(self._prefix), partition.partition, offset, watermark)

    def _labels(self, partition: TopicPartition) -> tuple[str, str]:
        return partition.topic.removeprefix(self._prefix), str(partition.partition)


def next_offsets(records: Sequence[ConsumerRecord]) -> dict[TopicPartition, int]:
    """Return, for each partition of the batch, the offset behind its last record."""
    offsets = {(record.topic, record.partition): record.offset + 1 for record in records}
    return {TopicPartition(*place): offset for place, offset in offsets.items()}


async def positions_of(client: AIOKafkaConsumer) -> dict[TopicPartition, int]:
    """Return where the consumer stands in its partitions; those it has not found its place in are left out."""
    positions: dict[TopicPartition, int] = {}
    for partition in client.assignment():
        try:
            async with asyncio.timeout(POSITION_TIMEOUT_SECONDS):
                positions[partition] = await client.position(partition)
        except (TimeoutError, IllegalStateError):
            continue
    return positions
