"""Watermarks: up to which event time each partition has been read; holds expire by the lowest of them.

The watermark of a partition that was read to its end is the time at which the broker reported that end. Otherwise it
is the newest event read. No watermark passes the time up to which the list of partitions is known to be complete: a
payment may be in a partition that was added since. `progress.py` decides when the rows are written.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from aiokafka import ConsumerRecord, TopicPartition

from storage.save import PartitionProgress
from workers.consuming.client import RecordClient
from workers.consuming.offsets import Offsets, next_offsets
from workers.consuming.records import DecodedRecord, InvalidRecord

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Subtracted from the time of the broker's answer: clocks differ, and an event may still be on its way to the broker.
CAUGHT_UP_MARGIN = timedelta(seconds=1)


class WatermarkTracker:
    """Tracks what one consumer has processed of its partitions; `prefix` is the topics' prefix.

    `to_database` turns a time of this machine's clock into that of the database's, by which holds expire.
    """

    def __init__(self, prefix: str, to_database: Callable[[datetime], datetime] = lambda at: at) -> None:
        self._prefix = prefix
        self._to_database = to_database
        self._listed: set[TopicPartition] = set()
        self._processed: dict[TopicPartition, int] = {}
        self._positions_before: Offsets = {}
        # Per partition, when the last two fetch responses were read, in ms.
        self._answers: dict[TopicPartition, tuple[int | None, int]] = {}
        self._unread: set[TopicPartition] = set()

    @property
    def processed_offsets(self) -> Mapping[TopicPartition, int]:
        """The offset after the last applied record, of each partition with one."""
        return self._processed

    def add_unread(self, partitions: Iterable[TopicPartition]) -> None:
        """Add partitions that exist; until one is read, its first row holds the low watermark back."""
        added = set(partitions)
        self._unread |= added
        self._listed |= added

    def listed(self, partitions: Iterable[TopicPartition]) -> None:
        """Add those of the partitions that exist now which were not there before."""
        self.add_unread(set(partitions) - self._listed)

    def saved(self, rows: Iterable[PartitionProgress]) -> None:
        """Record that `rows` are committed; partitions added after they were built stay unread."""
        known = {row[:2] for row in rows}
        self._unread = {partition for partition in self._unread if self._row(partition, 0, EPOCH)[:2] not in known}

    def processed(self, offsets: Offsets) -> None:
        """Record that everything before `offsets` is committed to the database."""
        self._processed |= offsets

    def forget_positions(self) -> None:
        """Forget what was learned of partitions that are revoked."""
        self._processed.clear()
        self._positions_before = {}
        self._answers.clear()

    def unread_rows(self, known: Container[TopicPartition] = ()) -> list[PartitionProgress]:
        """Return first rows for unread partitions, without those in `known`."""
        return [self._row(partition, 0, EPOCH) for partition in self._unread if partition not in known]

    def batch_rows(
        self,
        client: RecordClient | None,
        records: Sequence[ConsumerRecord],
        items: Sequence[DecodedRecord | InvalidRecord],
        now: datetime,
    ) -> list[PartitionProgress]:
        """Return rows for the batch's partitions: the next offset, and the watermark once the batch is applied.

        An event counts at the earlier of its own time and its record's, so that one producer's fast clock does not
        raise the watermark.
        """
        times: dict[tuple[str, int], datetime] = {}
        now = self._to_database(now)
        complete = self._complete_until(client)
        for record, item in zip(records, items, strict=True):
            if isinstance(item, DecodedRecord):
                place = (record.topic, record.partition)
                at = min(item.event.occurred_at, item.record.timestamp or now, now)
                if at > times.get(place, EPOCH):
                    times[place] = at
        return [
            self._row(
                partition,
                offset,
                min(max(times.get(partition, EPOCH), self._end_confirmed(client, partition, offset)), complete),
            )
            for partition, offset in next_offsets(records).items()
        ]

    def idle_rows(self, client: RecordClient, trusted: Offsets) -> list[PartitionProgress]:
        """Return rows for those partitions of `trusted` that have no records left to read."""
        rows = []
        complete = self._complete_until(client)
        for partition, position in trusted.items():
            watermark = min(self._end_confirmed(client, partition, position), complete)
            if watermark > EPOCH:
                rows.append(self._row(partition, position, watermark))
        return rows

    def trusted(self, positions: Offsets, *, quiet: bool) -> Offsets:
        """Return those positions before which everything was processed; `quiet`: no batch came since the last call.

        A batch that aiokafka has handed over and our handler has not received yet is counted nowhere, but the position
        is past it. So a position is trusted only if it is our own last offset, or if it stayed the same through a quiet
        interval. The second case is needed for control records of transactions, which leave the position ahead of the
        last record's offset plus one.
        """
        before, self._positions_before = self._positions_before, positions
        return {
            partition: position
            for partition, position in positions.items()
            if self._processed.get(partition) == position or (quiet and before.get(partition) == position)
        }

    def _end_confirmed(self, client: RecordClient | None, partition: TopicPartition, next_offset: int) -> datetime:
        """Return up to when the broker confirmed that nothing exists at or after `next_offset`; else the epoch.

        aiokafka knows when it read a fetch response, but the response may have waited in the socket for hours while
        this process was stopped. The request was sent after the response before it was read, so that time counts.
        """
        if client is None or partition not in client.assignment():
            return EPOCH
        end, read_ms = client.highwater(partition), client.last_poll_timestamp(partition)
        if end is None or read_ms is None:
            return EPOCH
        before_ms, last_ms = self._answers.get(partition, (None, None))
        if read_ms != last_ms:
            before_ms, last_ms = last_ms, read_ms
            self._answers[partition] = (before_ms, last_ms)
        if before_ms is None or next_offset < end:
            return EPOCH
        return self._to_database(datetime.fromtimestamp(before_ms / 1000, UTC)) - CAUGHT_UP_MARGIN

    def _complete_until(self, client: RecordClient | None) -> datetime:
        """Return up to when no partition can have been added that is not listed; the epoch where it is not known."""
        listed_at = None if client is None else client.listed_at()
        if listed_at is None:
            return EPOCH
        return self._to_database(datetime.fromtimestamp(listed_at, UTC)) - CAUGHT_UP_MARGIN

    def _row(self, partition: TopicPartition, offset: int, watermark: datetime) -> PartitionProgress:
        return PartitionProgress(partition.topic.removeprefix(self._prefix), partition.partition, offset, watermark)
