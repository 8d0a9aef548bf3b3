"""What stands in for a broker's fetch responses, for tests of the client on aiokafka's own fetcher."""

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeAlias

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchError, FetchResult
from aiokafka.errors import OffsetOutOfRangeError, TopicAuthorizationFailedError, UnsupportedCodecError
from aiokafka.structs import ConsumerRecord

from workers.consuming.client import RecordClient

if TYPE_CHECKING:
    import asyncio

ORDERS = TopicPartition("order.created", 0)
PAYMENTS = TopicPartition("payment.succeeded", 0)
Record: TypeAlias = "ConsumerRecord[bytes, bytes]"


@dataclass
class State:
    """The position of a partition, and where the broker has said that it ends."""

    position: int = 0
    lso: int = 0
    highwater: int = 0
    paused: bool = False
    timestamp: int | None = None
    has_valid_position: bool = True

    def consumed_to(self, position: int) -> None:
        """Move the position."""
        self.position = position


class Batch:
    """What aiokafka makes of a fetch response: records are decoded as they are taken, and may prove unreadable."""

    def __init__(self, records: Iterable[Record], *, then_fails: bool = False) -> None:
        self._records = self._read(list(records), then_fails)
        self.next_fetch_offset = 0

    def _read(self, records: list[Record], then_fails: bool) -> Iterator[Record]:  # noqa: FBT001 - as given
        for record in records:
            self.next_fetch_offset = record.offset + 1
            yield record
        if then_fails:
            raise UnsupportedCodecError("zstd")

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def __next__(self) -> Record:
        return next(self._records)


@dataclass
class Broker:
    """The assigned partitions, and the fetch responses received for them."""

    states: dict[TopicPartition, State] = field(default_factory=lambda: {ORDERS: State(), PAYMENTS: State()})
    fetched: OrderedDict[TopicPartition, FetchResult | FetchError] = field(default_factory=OrderedDict)
    calls: list[str] = field(default_factory=list)
    waiting: set["asyncio.Future[None]"] = field(default_factory=set)

    def answer(self, place: TopicPartition, *records: Record, end: int | None = None, then_fails: bool = False) -> None:
        """Receive records; `end` is where the partition ends, by default after them."""
        state = self.states[place]
        state.lso = records[-1].offset + 1 if end is None else end
        state.timestamp = round(time.time() * 1000)
        batch = Batch(records, then_fails=then_fails)
        batch.next_fetch_offset = state.position
        assignment = SimpleNamespace(active=True, state_value=self.states.get)
        self.fetched[place] = FetchResult(place, assignment=assignment, partition_records=batch, backoff=0)

    def refuse(self, place: TopicPartition) -> None:
        """Receive an error."""
        self.fetched[place] = FetchError(error=TopicAuthorizationFailedError(place.topic), backoff=0)

    def lose(self, place: TopicPartition, offset: int) -> None:
        """Receive the answer that there is no such offset."""
        self.fetched[place] = FetchError(error=OffsetOutOfRangeError({place: offset}), backoff=0)

    async def out_of_range(self, client: RecordClient, positions: Mapping[TopicPartition, int]) -> None:
        """Go on a hundred offsets further."""
        self.calls.append(f"out of range: {sorted(positions.values())}")
        for place, offset in positions.items():
            client.seek(place, offset + 100)
            self.answer(place, *records_at(place, offset + 100))

    async def batch_done(self) -> None:
        """Record that the client waited for the end of a batch, and how many partitions were paused meanwhile."""
        self.calls.append(f"batch done, {self.paused} paused")

    @property
    def paused(self) -> int:
        """How many partitions are not fetched."""
        return sum(state.paused for state in self.states.values())


def records_at(place: TopicPartition, *offsets: int, at: Iterable[int] = ()) -> list[Record]:
    """Return records with these offsets."""
    times = list(at) or [0] * len(offsets)
    return [
        ConsumerRecord(place.topic, place.partition, offset, time_, 0, None, b"{}", None, 0, 2, ())
        for offset, time_ in zip(offsets, times, strict=True)
    ]
