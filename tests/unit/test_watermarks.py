"""The stream's clock, on a consumer of cardboard: what moves it, and what must not."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from aiokafka import TopicPartition

from dev.records import ConsumedRecord
from storage.save import PartitionProgress
from tests.integration.shop import body, created
from workers.consuming.records import read_records
from workers.consuming.watermarks import CAUGHT_UP_MARGIN, EPOCH, WatermarkTracker

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HERE = TopicPartition("order.created", 0)


@dataclass
class Client:
    """The part of aiokafka's consumer that the clock looks at: the end of each partition, and when it was told."""

    ends: dict[TopicPartition, int] = field(default_factory=dict)
    read_at: dict[TopicPartition, datetime] = field(default_factory=dict)

    def assignment(self) -> set[TopicPartition]:
        """Name the one partition."""
        return {HERE}

    def highwater(self, partition: TopicPartition) -> int | None:
        """Return the end that was told last."""
        return self.ends.get(partition)

    def last_poll_timestamp(self, partition: TopicPartition) -> int | None:
        """Return when it was."""
        at = self.read_at.get(partition)
        return None if at is None else round(at.timestamp() * 1000)

    def answer(self, end: int, at: datetime) -> "Client":
        """Let an answer of the broker's arrive."""
        self.ends[HERE], self.read_at[HERE] = end, at
        return self


def _idle(clock: WatermarkTracker, client: Client, position: int) -> datetime | None:
    rows = clock.of_idle(client, {HERE: position})
    return rows[0].watermark if rows else None


def _batch(clock: WatermarkTracker, client: Client, *times: tuple[datetime, datetime]) -> PartitionProgress:
    """Read a batch of events, each with its own time and its record's."""
    records = [
        ConsumedRecord(
            HERE.topic,
            0,
            n,
            round(stamp.timestamp() * 1000),
            b"k",
            body(created(f"o{n}", {"p": 1}) | {"occurred_at": at}),
        )
        for n, (at, stamp) in enumerate(times)
    ]
    (row,) = clock.of_batch(client, records, read_records(records, "", NOON), NOON)
    return row


def test_a_partition_at_its_end_keeps_up_with_the_broker() -> None:
    """Answer by answer the clock moves on, one answer behind."""
    clock, client = WatermarkTracker(""), Client()
    found = [_idle(clock, client.answer(7, NOON + timedelta(seconds=second)), 7) for second in range(4)]
    assert [None, *(NOON + timedelta(seconds=second) - CAUGHT_UP_MARGIN for second in range(3))] == found


def test_an_answer_from_before_a_standstill_is_no_news() -> None:
    """An answer that lay in the socket for an hour counts for the time when it was asked."""
    clock, client = WatermarkTracker(""), Client()
    _idle(clock, client.answer(7, NOON), 7)
    _idle(clock, client.answer(7, NOON + timedelta(seconds=1)), 7)
    woken = NOON + timedelta(hours=1)
    assert NOON + timedelta(seconds=1) - CAUGHT_UP_MARGIN == _idle(clock, client.answer(7, woken), 7)
    # The next one was asked after waking, and tells of what came meanwhile.
    assert None is _idle(clock, client.answer(9, woken + timedelta(seconds=1)), 7)
    assert None is _idle(clock, client.answer(9, woken + timedelta(seconds=2)), 8)
    assert woken + timedelta(seconds=2) - CAUGHT_UP_MARGIN == _idle(
        clock, client.answer(9, woken + timedelta(seconds=3)), 9
    )


def test_looking_twice_at_one_answer_learns_nothing() -> None:
    """The clock moves by answers, not by looks."""
    clock, client = WatermarkTracker(""), Client()
    client.answer(7, NOON)
    assert [None, None, None] == [_idle(clock, client, 7) for _ in range(3)]


def test_a_backlog_stands_at_the_newest_event_read() -> None:
    """With records unread the partition is as far as its events."""
    clock, client = WatermarkTracker(""), Client()
    for second in range(3):
        assert _idle(clock, client.answer(100, NOON + timedelta(seconds=second)), 0) is None
    hour_ago, two = NOON - timedelta(hours=1), NOON - timedelta(hours=2)
    row = _batch(clock, client, (two, two), (hour_ago, hour_ago), (two, two))
    assert ("order.created", 0, 3, hour_ago) == row


def test_a_fast_clock_counts_at_its_records_time() -> None:
    """An event dated ahead of its record, or of us, moves the clock no further than the earlier of the two."""
    ahead, stamp = NOON + timedelta(hours=5), NOON - timedelta(minutes=3)
    client = Client().answer(100, NOON)
    assert stamp == _batch(WatermarkTracker(""), client, (ahead, stamp)).watermark
    assert NOON == _batch(WatermarkTracker(""), client, (ahead, ahead)).watermark


def test_new_partitions_hold_the_clock_until_they_are_written() -> None:
    """A partition that was never read stands at the beginning of time."""
    clock = WatermarkTracker("prefix.")
    clock.meet([TopicPartition("prefix.order.created", 3)])
    assert [PartitionProgress("order.created", 3, 0, EPOCH)] == clock.unread()
    assert [] == clock.unread({TopicPartition("prefix.order.created", 3)})
    rows = clock.unread()
    clock.meet([TopicPartition("prefix.order.created", 4)])
    clock.written(rows)
    assert [PartitionProgress("order.created", 4, 0, EPOCH)] == clock.unread()
    clock.written(clock.unread())
    assert [] == clock.unread()


def test_a_position_is_settled_when_it_is_processed_or_stood_still() -> None:
    """A position ahead of what was processed counts only after a quiet second, as aiokafka may have just moved it."""
    clock = WatermarkTracker("")
    positions = {HERE: 8}
    assert {} == clock.settle(positions, quiet=True)
    assert {} == clock.settle(positions, quiet=False)
    assert positions == clock.settle(positions, quiet=True)
    assert {} == clock.settle({HERE: 9}, quiet=True)
    clock.processed({HERE: 9})
    assert {HERE: 9} == clock.settle({HERE: 9}, quiet=False)


def test_partitions_that_went_to_others_are_forgotten() -> None:
    """After a rebalance everything is learned anew."""
    clock, client = WatermarkTracker(""), Client()
    clock.processed({HERE: 7})
    _idle(clock, client.answer(7, NOON), 7)
    clock.forget()
    assert {} == clock.settle({HERE: 7}, quiet=False)
    assert None is _idle(clock, client.answer(7, NOON + timedelta(seconds=1)), 7)
