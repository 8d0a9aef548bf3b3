"""The worker's Kafka client: hands out what has come in, when the batch before it is done.

aiokafka asks for more records the moment the last ones are taken, and FastStream sleeps when there were none. In a
steady stream the first makes batches of what came in the millisecond after, while the rest waits for the batch after
next; the second lets an event that comes alone wait for up to BATCH_TIMEOUT_MS.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from heapq import merge
from itertools import groupby
from operator import attrgetter
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from faststream.kafka import KafkaBroker
from typing_extensions import override

_place = attrgetter("topic", "partition")
_timestamp = attrgetter("timestamp")


class Intake(AIOKafkaConsumer):  # type: ignore[misc] # aiokafka is published without types
    """Asks for records ahead while there is a backlog; else only when it is asked for a batch.

    `batch_done` returns when the batch that was handed out has been applied, or when it is time to ask for more
    all the same.
    """

    def __init__(self, batch_done: Callable[[], Awaitable[None]], **options: Any) -> None:  # noqa: ANN401 - aiokafka's
        super().__init__(**options)
        self._batch_done = batch_done
        self._gathering = False
        self._shut = False

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Return the next records; waits until there are some. Raises as aiokafka's does."""
        if self._gathering:
            await self._batch_done()
            self._gathering = False
            if not self._shut:
                self.resume(*self.assignment())
        found: dict[TopicPartition, list[ConsumerRecord]] = {}
        while not found:
            found = await super().getmany(*partitions, timeout_ms=timeout_ms, max_records=max_records)
        if self._caught_up(found):
            # Before aiokafka's own task gets to run, and asks.
            self._gathering = True
            self.pause(*self.assignment())
        return found

    def shut(self) -> None:
        """Hand out nothing more of the partitions at hand."""
        self._shut = True
        self.pause(*self.assignment())

    def _caught_up(self, found: dict[TopicPartition, list[ConsumerRecord]]) -> bool:
        return all((self.highwater(place) or 0) <= records[-1].offset + 1 for place, records in found.items())


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
