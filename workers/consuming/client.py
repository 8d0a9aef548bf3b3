"""The worker's Kafka client: it chooses when to fetch, and in which order a backlog is read.

Two habits of the libraries make poor batches. aiokafka fetches again the moment records are taken, so that in a steady
stream each batch holds what arrived within the last millisecond while the rest waits for the batch after next.
FastStream sleeps after an empty fetch, so that a single event waits for up to BATCH_TIMEOUT_MS.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, TypeAlias

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, NoOffsetForPartitionError, OffsetOutOfRangeError

from storage.errors import in_words

logger = logging.getLogger(__name__)

ERROR_LOG_SECONDS = 30.0
RETRY_SECONDS = 0.5
POSITION_TIMEOUT_SECONDS = 0.2
# How many records one partition yields before its turn ends, where several have a backlog.
RECORDS_PER_TURN = 16
# Decoded bytes after which a batch is complete. A fetch is bounded in compressed bytes, which may be a fiftieth.
MAX_BATCH_BYTES = 16 * 1024 * 1024

Records: TypeAlias = dict[TopicPartition, list[ConsumerRecord]]


class RecordClient(AIOKafkaConsumer):  # type: ignore[misc] # aiokafka is published without types
    """Fetches a backlog ahead and reads it by timestamp; otherwise fetches only when a batch is asked for.

    `batch_done` returns when the last batch has been applied, or when it is time to fetch again all the same.
    `out_of_range` is called when Kafka does not have a partition's next offset, and moves the partition on; aiokafka
    itself would go on with the oldest record, unreported. Records that cannot be read (an unsupported compression,
    revoked permissions) hold back their own partition only, and are logged until they can be read.
    """

    def __init__(
        self,
        batch_done: Callable[[], Awaitable[None]],
        out_of_range: Callable[["RecordClient", Mapping[TopicPartition, int]], Awaitable[None]],
        **options: Any,  # noqa: ANN401 - aiokafka's
    ) -> None:
        super().__init__(**options)
        self._batch_done = batch_done
        self._move_on = out_of_range
        self._out_of_range: dict[TopicPartition, int] = {}
        # Whether the assigned partitions wait to be placed; aiokafka itself would start at the group's offsets.
        self._held = False
        self._suspended = False
        # When the last two lists of partitions were received, in seconds; None before there were two.
        self._listed_at: tuple[float | None, float | None] = (None, None)
        self._client.cluster.add_listener(self._partitions_listed)
        # Timestamp of the last record taken of each partition.
        self._read_up_to_ms: dict[TopicPartition, int] = {}
        self._read_failed = False
        self._next_error_log = 0.0
        # Since when the next batch is being fetched (monotonic); None while fetching is paused.
        self._fetching_since: float | None = time.monotonic()

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> Records:
        """Return the next records, RECORDS_PER_TURN at most by default; waits until there are some."""
        if self._fetching_since is None:
            await self._batch_done()
            self._fetching_since = time.monotonic()
            if not (self._suspended or self._held):
                self.resume(*self.assignment())
        limit = RECORDS_PER_TURN if max_records is None else max_records
        found: Records = {}
        while not await self._take_oldest(found, limit):
            if self._out_of_range:
                lost, self._out_of_range = self._out_of_range, {}
                await self._move_on(self, lost)
            self._read_failed = False
            # Take a single record: when the next one cannot be read, aiokafka loses all that it took with it.
            await self._take(found, *partitions, timeout_ms=max(timeout_ms, 1), max_records=1)
            if self._read_failed:
                await asyncio.sleep(RETRY_SECONDS)
        if not await self._has_more(found):
            # Pause before aiokafka's fetch task gets to run, or it would fetch at once.
            self._fetching_since = None
            self.pause(*self.assignment())
        return found

    def listed_at(self) -> float | None:
        """Return the Unix time up to which the list of partitions is known to be complete; None before that is known.

        A list was requested after the one before it was received, so it was complete at that time.
        """
        return self._listed_at[0]

    def _partitions_listed(self, _cluster: object) -> None:
        self._listed_at = (self._listed_at[1], time.time())

    def suspend(self) -> None:
        """Return no more records of the partitions assigned now, for as long as the process lives."""
        self._suspended = True
        self.pause(*self.assignment())

    def keep_suspended(self) -> None:
        """Suspend the partitions of a new assignment as well, if the ones before it were."""
        if self._suspended:
            self.pause(*self.assignment())

    def hold(self) -> None:
        """Read nothing of the partitions assigned now until `start_at`; call it before aiokafka gets to fetch."""
        self._held = True
        self._out_of_range.clear()
        self.pause(*self.assignment())

    def start_at(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read the assigned partitions from these offsets."""
        for partition, offset in offsets.items():
            self.seek(partition, offset)
        self._held = False
        if self._fetching_since is not None and not self._suspended:
            self.resume(*self.assignment())

    async def committed_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the group's offset of each partition that has one, in one request."""
        found = await self._coordinator.fetch_committed_offsets(list(partitions))
        return {partition: committed.offset for partition, committed in found.items() if committed.offset >= 0}

    def put_back(self, records: Sequence[ConsumerRecord]) -> None:
        """Move each partition that is still assigned back to the first of its `records`."""
        first: dict[TopicPartition, int] = {}
        for record in records:
            first.setdefault(TopicPartition(record.topic, record.partition), record.offset)
        for partition, offset in first.items():
            if partition in self.assignment():
                self.seek(partition, offset)

    def poll_age(self) -> float | None:
        """Return for how many seconds a fetch has been unanswered; None when none is due or none was ever answered."""
        if self._fetching_since is None:
            return None
        answered = [self.last_poll_timestamp(partition) for partition in self.assignment()]
        known = [timestamp for timestamp in answered if timestamp is not None]
        return min(time.time() - max(known) / 1000, time.monotonic() - self._fetching_since) if known else None

    async def known_positions(self) -> dict[TopicPartition, int]:
        """Return the next offset to read of each assigned partition, without those whose position is not known yet."""
        positions: dict[TopicPartition, int] = {}
        for partition in () if self._held else self.assignment():
            try:
                async with asyncio.timeout(POSITION_TIMEOUT_SECONDS):
                    positions[partition] = await self.position(partition)
            except (TimeoutError, IllegalStateError):
                continue
        # A rebalance may have revoked some while others were awaited, and aiokafka asserts that it is only asked about
        # assigned ones.
        return {partition: position for partition, position in positions.items() if partition in self.assignment()}

    async def _take_oldest(self, found: Records, limit: int) -> bool:
        """Add fetched records to `found`, in turns, from the partition furthest behind in time; say whether it has any.

        aiokafka would empty one partition after the other: after an outage, payments could come long before orders.
        """
        now = int(time.time() * 1000)
        behind = [(self._read_up_to_ms.get(partition, 0), partition) for partition in self._fetcher._records]  # noqa: SLF001 - aiokafka offers no other way to see what was fetched
        heapify(behind)
        left = limit - sum(map(len, found.values()))
        bytes_left = MAX_BATCH_BYTES - sum(map(_size_of, found.values()))
        while behind and left > 0 and bytes_left > 0:
            partition = heappop(behind)[1]
            taken = await self._take(found, partition, max_records=min(left, RECORDS_PER_TURN))
            if taken:
                left -= len(taken)
                bytes_left -= _size_of(taken)
                # Capped at now: a producer whose clock is ahead must not make its partition the last one for good.
                self._read_up_to_ms[partition] = min(taken[-1].timestamp or 0, now)
                heappush(behind, (self._read_up_to_ms[partition], partition))
        return bool(found)

    async def _take(self, found: Records, *partitions: TopicPartition, **options: int) -> list[ConsumerRecord]:
        """Add some records to `found` and return them; none when they cannot be read."""
        try:
            taken: Records = await super().getmany(*partitions, **options)
        except ConsumerStoppedError:
            raise
        except OffsetOutOfRangeError as error:
            self._out_of_range |= error.args[0]
            return []
        except NoOffsetForPartitionError:
            # The group has no offset, and the partition is about to be placed.
            return []
        except Exception as error:  # noqa: BLE001 - records of other partitions were taken already and must not be lost
            self._read_failed = True
            if time.monotonic() >= self._next_error_log:
                self._next_error_log = time.monotonic() + ERROR_LOG_SECONDS
                logger.error("Cannot read records; their partition is not read any further: %s", in_words(error))  # noqa: TRY400 - the trace is aiokafka's own
            return []
        for partition, records in taken.items():
            found.setdefault(partition, []).extend(records)
        return [record for records in taken.values() for record in records]

    async def _has_more(self, found: Records) -> bool:
        """Say whether a partition in `found` has a backlog; control records and open transactions do not count."""
        for partition in found:
            # Each wait may end in a rebalance, which revokes partitions whose records were taken already.
            if partition not in self.assignment():
                continue
            try:
                if (self.last_stable_offset(partition) or 0) > await self.position(partition):
                    return True
            except IllegalStateError:
                continue
        return False


def _size_of(records: Sequence[ConsumerRecord]) -> int:
    """Return the decoded bytes of the records' keys, values and headers."""
    size = 0
    for record in records:
        size += len(record.value or b"") + len(record.key or b"")
        for _, value in record.headers:
            size += len(value or b"")
    return size
