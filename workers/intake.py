"""The worker's Kafka client: hands out what has come in, when the batch before it is done.

aiokafka asks for more records the moment the last ones are taken, and FastStream sleeps when there were none. In a
steady stream the first makes batches of what came in the millisecond after, while the rest waits for the batch after
next; the second lets an event that comes alone wait for up to BATCH_TIMEOUT_MS.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from heapq import heapify, heappop, heappush, merge
from itertools import groupby
from operator import attrgetter
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from faststream.kafka import KafkaBroker
from typing_extensions import override

# Records of one partition that are taken at a stretch where several have a backlog.
PORTION = 16

Records = dict[TopicPartition, list[ConsumerRecord]]

_place = attrgetter("topic", "partition")
_timestamp = attrgetter("timestamp")


class Intake(AIOKafkaConsumer):  # type: ignore[misc] # aiokafka is published without types
    """Reads a backlog ahead and by the time of its records; else asks only when it is asked for a batch.

    `batch_done` returns when the batch that was handed out has been applied, or when it is time to ask for more
    all the same.
    """

    def __init__(self, batch_done: Callable[[], Awaitable[None]], **options: Any) -> None:  # noqa: ANN401 - aiokafka's
        super().__init__(**options)
        self._batch_done = batch_done
        self._gathering = False
        self._backlog = True
        self._shut = False
        self._read_until: dict[TopicPartition, int] = {}
        self._trouble: Exception | None = None

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> Records:
        """Return the next records; waits until there are some. Raises as aiokafka's does."""
        if self._trouble is not None:
            trouble, self._trouble = self._trouble, None
            raise trouble
        if self._gathering:
            await self._batch_done()
            self._gathering = False
            if not self._shut:
                self.resume(*self.assignment())
        found: Records = {}
        while not found:
            if self._backlog and max_records is not None:
                found = await self._oldest(max_records)
            # Of a backlog only a little: what comes in first is not the oldest.
            limit = PORTION if self._backlog else max_records
            found = found or await super().getmany(*partitions, timeout_ms=timeout_ms, max_records=limit)
        for place, records in found.items():
            self._read_until[place] = records[-1].timestamp
        self._backlog = any((self.highwater(place) or 0) > records[-1].offset + 1 for place, records in found.items())
        if not self._backlog:
            # Before aiokafka's own task gets to run, and asks.
            self._gathering = True
            self.pause(*self.assignment())
        return found

    def shut(self) -> None:
        """Hand out nothing more of the partitions at hand."""
        self._shut = True
        self.pause(*self.assignment())

    async def _oldest(self, max_records: int) -> Records:
        """Return what is here already, a portion at a time of the partition that is furthest behind in time.

        aiokafka would empty one partition after the other: after an outage, payments long before their orders.
        """
        found: Records = {}
        behind = [(self._read_until.get(place, 0), place) for place in self.assignment()]
        heapify(behind)
        while behind and max_records > 0:
            place = heappop(behind)[1]
            try:
                taken = await super().getmany(place, max_records=min(max_records, PORTION))
            except KafkaError as error:
                if not found:
                    raise
                self._trouble = error  # what was taken must be handed over first: it will not come again
                break
            for records in taken.values():
                found.setdefault(place, []).extend(records)
                max_records -= len(records)
                heappush(behind, (records[-1].timestamp, place))
        return found


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
