"""Watermarks, on a stand-in for aiokafka's consumer: what raises them, and what must not."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

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
    """The part of aiokafka's consumer that is used: the end of each partition, and when the broker reported it."""

    ends: dict[TopicPartition, int] = field(default_factory=dict)
    read_at: dict[TopicPartition, datetime] = field(default_factory=dict)
    listed: datetime | None = NOON + timedelta(days=1)

    def listed_at(self) -> float | None:
        """Return up to when the list of partitions is complete."""
        return None if self.listed is None else self.listed.timestamp()

    def assignment(self) -> set[TopicPartition]:
        """Return the one partition."""
        return {HERE}

    def highwater(self, partition: TopicPartition) -> int | None:
        """Return the end that was reported last."""
        return self.ends.get(partition)

    def last_poll_timestamp(self, partition: TopicPartition) -> int | None:
        """Return when the report was read."""
        at = self.read_at.get(partition)
        return None if at is None else round(at.timestamp() * 1000)

    def answer(self, end: int, at: datetime) -> "Client":
        """Read a fetch response."""
        self.ends[HERE], self.read_at[HERE] = end, at
        return self


def _idle(tracker: WatermarkTracker, client: Any, position: int) -> datetime | None:
    rows = tracker.idle_rows(client, {HERE: position})
    return rows[0].watermark if rows else None


def _batch(tracker: WatermarkTracker, client: Any, *times: tuple[datetime, datetime]) -> PartitionProgress:
    """Apply a batch of events, each with its own time and its record's."""
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
    (row,) = tracker.batch_rows(client, records, read_records(records, "", NOON), NOON)
    return row


def test_a_partition_read_to_its_end_keeps_up_with_the_broker() -> None:
    """Each response raises the watermark to when the one before it was read."""
    tracker, client = WatermarkTracker(""), Client()
    found = [_idle(tracker, client.answer(7, NOON + timedelta(seconds=second)), 7) for second in range(4)]
    assert [None, *(NOON + timedelta(seconds=second) - CAUGHT_UP_MARGIN for second in range(3))] == found


def test_a_response_from_before_a_suspension_counts_for_when_it_was_requested() -> None:
    """A response may have waited in the socket for an hour: what was written meanwhile is not in it."""
    tracker, client = WatermarkTracker(""), Client()
    _idle(tracker, client.answer(7, NOON), 7)
    _idle(tracker, client.answer(7, NOON + timedelta(seconds=1)), 7)
    woken = NOON + timedelta(hours=1)
    assert NOON + timedelta(seconds=1) - CAUGHT_UP_MARGIN == _idle(tracker, client.answer(7, woken), 7)
    # The next one was requested after the suspension, and reports what was written meanwhile.
    assert None is _idle(tracker, client.answer(9, woken + timedelta(seconds=1)), 7)
    assert None is _idle(tracker, client.answer(9, woken + timedelta(seconds=2)), 8)
    assert woken + timedelta(seconds=2) - CAUGHT_UP_MARGIN == _idle(
        tracker, client.answer(9, woken + timedelta(seconds=3)), 9
    )


def test_the_margin_covers_clocks_that_differ() -> None:
    """The watermark stays a second below the broker's answer: an event from just before it may still be on its way."""
    tracker, client = WatermarkTracker(""), Client()
    _idle(tracker, client.answer(7, NOON), 7)
    assert NOON - timedelta(seconds=1) == _idle(tracker, client.answer(7, NOON + timedelta(seconds=5)), 7)


def test_reading_one_response_twice_changes_nothing() -> None:
    """Watermarks rise with responses, not with calls."""
    tracker, client = WatermarkTracker(""), Client()
    client.answer(7, NOON)
    assert [None, None, None] == [_idle(tracker, client, 7) for _ in range(3)]


def test_the_watermark_of_a_backlog_is_the_newest_event_read() -> None:
    """While records are unread, only events raise the watermark."""
    tracker, client = WatermarkTracker(""), Client()
    for second in range(3):
        assert _idle(tracker, client.answer(100, NOON + timedelta(seconds=second)), 0) is None
    hour_ago, two = NOON - timedelta(hours=1), NOON - timedelta(hours=2)
    row = _batch(tracker, client, (two, two), (hour_ago, hour_ago), (two, two))
    assert ("order.created", 0, 3, hour_ago) == row


def test_an_event_counts_at_its_records_time_if_that_is_earlier() -> None:
    """A producer's fast clock raises the watermark neither beyond the record's time nor beyond ours."""
    ahead, stamp = NOON + timedelta(hours=5), NOON - timedelta(minutes=3)
    client = Client().answer(100, NOON)
    assert stamp == _batch(WatermarkTracker(""), client, (ahead, stamp)).watermark
    assert NOON == _batch(WatermarkTracker(""), client, (ahead, ahead)).watermark


def test_no_watermark_passes_the_list_of_partitions() -> None:
    """A payment may be in a partition that was added since; before there is a list, nothing is known."""
    client = Client(listed=NOON - timedelta(minutes=1)).answer(7, NOON)
    complete = NOON - timedelta(minutes=1) - CAUGHT_UP_MARGIN
    tracker = WatermarkTracker("")
    _idle(tracker, client, 7)
    assert complete == _idle(tracker, client.answer(7, NOON + timedelta(seconds=1)), 7)
    assert complete == _batch(tracker, client, (NOON, NOON)).watermark
    client.listed = None
    assert EPOCH == _batch(tracker, client, (NOON, NOON)).watermark
    assert None is _idle(tracker, client, 7)


def test_watermarks_go_by_the_databases_clock() -> None:
    """What this machine's clock says is translated: of responses, of the list, and of now."""
    hour = timedelta(hours=1)
    tracker, client = WatermarkTracker("", lambda at: at - hour), Client()
    _idle(tracker, client.answer(7, NOON), 7)
    assert NOON - hour - CAUGHT_UP_MARGIN == _idle(tracker, client.answer(7, NOON + timedelta(seconds=1)), 7)
    client.answer(100, NOON)
    assert NOON - hour == _batch(tracker, client, (NOON, NOON)).watermark
    client.listed = NOON - hour
    assert NOON - 2 * hour - CAUGHT_UP_MARGIN == _batch(tracker, client, (NOON, NOON)).watermark


def test_unread_partitions_hold_the_low_watermark_until_they_are_saved() -> None:
    """The first row of a partition that was never read has the earliest watermark there is."""
    tracker = WatermarkTracker("prefix.")
    tracker.add_unread([TopicPartition("prefix.order.created", 3)])
    assert [PartitionProgress("order.created", 3, 0, EPOCH)] == tracker.unread_rows()
    assert [] == tracker.unread_rows({TopicPartition("prefix.order.created", 3)})
    rows = tracker.unread_rows()
    tracker.add_unread([TopicPartition("prefix.order.created", 4)])
    tracker.saved(rows)
    assert [PartitionProgress("order.created", 4, 0, EPOCH)] == tracker.unread_rows()
    tracker.saved(tracker.unread_rows())
    assert [] == tracker.unread_rows()


def test_a_position_is_settled_when_it_is_processed_or_stood_still() -> None:
    """A position ahead of what was processed counts only after a quiet interval, as aiokafka may just have moved it."""
    tracker = WatermarkTracker("")
    positions = {HERE: 8}
    assert {} == tracker.trusted(positions, quiet=True)
    assert {} == tracker.trusted(positions, quiet=False)
    assert positions == tracker.trusted(positions, quiet=True)
    assert {} == tracker.trusted({HERE: 9}, quiet=True)
    tracker.processed({HERE: 9})
    assert {HERE: 9} == tracker.trusted({HERE: 9}, quiet=False)


def test_revoked_partitions_are_forgotten() -> None:
    """After a rebalance nothing that was known before it counts."""
    tracker, client = WatermarkTracker(""), Client()
    tracker.processed({HERE: 7})
    _idle(tracker, client.answer(7, NOON), 7)
    tracker.forget_positions()
    assert {} == tracker.trusted({HERE: 7}, quiet=False)
    assert None is _idle(tracker, client.answer(7, NOON + timedelta(seconds=1)), 7)
