"""The worker's Kafka client: hands out what has come in, when the batch before it is done.

aiokafka asks for more records the moment the last ones are taken, and FastStream sleeps when there were none. In a
steady stream the first makes batches of what came in the millisecond after, while the rest waits for the batch after
next; the second lets an event that comes alone wait for up to BATCH_TIMEOUT_MS.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from heapq import heapify, heappop, heappush, merge
from itertools import groupby
from operator import attrgetter
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import ConsumerStoppedError
from faststream.kafka import KafkaBroker
from typing_extensions import override

from storage.errors import in_words

logger = logging.getLogger(__name__)

COMPLAINT_SECONDS = 30.0
RETRY_SECONDS = 0.5
# Records of one partition that are taken at a stretch where several have a backlog.
PORTION = 16

Records = dict[TopicPartition, list[ConsumerRecord]]

_place = attrgetter("topic", "partition")
_timestamp = attrgetter("timestamp")


class RecordClient(AIOKafkaConsumer):  # type: ignore[misc] # aiokafka is published without types
    """Reads a backlog ahead and by the time of its records; else asks only when it is asked for a batch.

    `batch_done` returns when the batch that was handed out has been applied, or when it is time to ask for more
    all the same. Records that cannot be taken (compressed as nothing here can read, withdrawn rights) keep their own
    partition back and no other, and are complained of in the log until they can.
    """

    def __init__(self, batch_done: Callable[[], Awaitable[None]], **options: Any) -> None:  # noqa: ANN401 - aiokafka's
        super().__init__(**options)
        self._batch_done = batch_done
        self._shut = False
        self._read_until: dict[TopicPartition, int] = {}
        self._in_trouble = False
        self._next_complaint = 0.0
        # When it began to ask for the records of the next batch (monotonic); None while it does not.
        self.asking_since: float | None = time.monotonic()

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> Records:
        """Return the next records, at most PORTION where `max_records` is None; waits until there are some."""
        if self.asking_since is None:
            await self._batch_done()
            self.asking_since = time.monotonic()
            if not self._shut:
                self.resume(*self.assignment())
        limit = PORTION if max_records is None else max_records
        found: Records = {}
        while not await self._take_oldest(found, limit):
            self._in_trouble = False
            # One record: aiokafka loses what it took of a partition where it fails to read the next one's.
            await self._take(found, *partitions, timeout_ms=max(timeout_ms, 1), max_records=1)
            if self._in_trouble:
                await asyncio.sleep(RETRY_SECONDS)
        if not await self._is_behind(found):
            # Before aiokafka's own task gets to run, and asks.
            self.asking_since = None
            self.pause(*self.assignment())
        return found

    def shut(self) -> None:
        """Hand out nothing more of the partitions at hand."""
        self._shut = True
        self.pause(*self.assignment())

    async def _take_oldest(self, found: Records, limit: int) -> bool:
        """Add what is here already, a portion at a time of the partition furthest behind in time; tell if there is any.

        aiokafka would empty one partition after the other: after an outage, payments long before their orders.
        """
        now = int(time.time() * 1000)
        behind = [(self._read_until.get(place, 0), place) for place in self._fetcher._records]  # noqa: SLF001 - named nowhere else
        heapify(behind)
        left = limit - sum(map(len, found.values()))
        while behind and left > 0:
            place = heappop(behind)[1]
            taken = await self._take(found, place, max_records=min(left, PORTION))
            if taken:
                left -= len(taken)
                # A producer's clock that is ahead must not make its partition the last one for good.
                self._read_until[place] = min(taken[-1].timestamp or 0, now)
                heappush(behind, (self._read_until[place], place))
        return bool(found)

    async def _take(self, found: Records, *places: TopicPartition, **options: int) -> list[ConsumerRecord]:
        """Add some records of one partition and return them; none where they cannot be had."""
        try:
            taken: Records = await super().getmany(*places, **options)
        except ConsumerStoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, records of others are in hand and must not be lost
            self._in_trouble = True
            if time.monotonic() >= self._next_complaint:
                self._next_complaint = time.monotonic() + COMPLAINT_SECONDS
                logger.error("Records cannot be read, and what comes behind them waits: %s", in_words(error))  # noqa: TRY400 - the trace says nothing more
            return []
        for place, records in taken.items():
            found.setdefault(place, []).extend(records)
        return [record for records in taken.values() for record in records]

    async def _is_behind(self, found: Records) -> bool:
        """Tell whether the broker had more of what was taken; control records and open transactions do not count."""
        for place in found:
            if (self.last_stable_offset(place) or 0) > await self.position(place):
                return True
        return False


class Broker(KafkaBroker):
    """FastStream's broker, whose subscribers read through what `make_client` makes of a client's options."""

    make_client: Callable[..., AIOKafkaConsumer] = AIOKafkaConsumer

    @override
    async def connect(self) -> Any:
        """Connect. This is when FastStream chooses its subscribers' client, with the options it was given."""
        connection = await super().connect()
        config = self.config.broker_config
        chosen: partial[AIOKafkaConsumer] = config.builder  # type: ignore[assignment] # what FastStream makes it
        config.builder = partial(self.make_client, **chosen.keywords)
        return connection


def in_time(records: Sequence[ConsumerRecord]) -> list[ConsumerRecord]:
    """Return the records of several partitions by their timestamps; those of one partition keep their order."""
    runs = [list(run) for _, run in groupby(records, _place)]
    return runs[0] if len(runs) == 1 else list(merge(*runs, key=_timestamp))
