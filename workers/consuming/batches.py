"""A batch on its way from Kafka's records to the engine's tasks."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from heapq import merge
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from aiokafka import ConsumerRecord

from engine import metrics
from engine.tasks import DeadLetterTask, EventTask, Task
from storage.save import PartitionProgress
from workers.consuming.records import DecodedRecord, InvalidRecord, read_records

# Records decoded before other tasks get a turn: above all the one that applies the batch before.
DECODED_PER_TURN = 32

_partition = attrgetter("topic", "partition")
_timestamp = attrgetter("timestamp")


class Batch(NamedTuple):
    """Raw records, what they mean one by one, the progress to store with them, and when they were received."""

    records: Sequence[ConsumerRecord]
    items: Sequence[DecodedRecord | InvalidRecord]
    progress: Sequence[PartitionProgress]
    received_at: datetime


def merge_by_timestamp(records: Sequence[ConsumerRecord]) -> list[ConsumerRecord]:
    """Return the records of several partitions by timestamp; each partition keeps its own order."""
    runs = [list(run) for _, run in groupby(records, _partition)]
    return runs[0] if len(runs) == 1 else list(merge(*runs, key=_timestamp))


async def decode_batch(
    records: Sequence[ConsumerRecord], prefix: str, now: datetime
) -> list[DecodedRecord | InvalidRecord]:
    """Decode every record, and let other tasks run in between."""
    items: list[DecodedRecord | InvalidRecord] = []
    seconds = 0.0
    for start in range(0, len(records), DECODED_PER_TURN):
        if start:
            await asyncio.sleep(0)
        started = time.perf_counter()
        items += read_records(records[start : start + DECODED_PER_TURN], prefix, now)
        seconds += time.perf_counter() - started
    metrics.BATCH_DURATION.labels("decode").observe(seconds)
    return items


def tasks_of(items: Sequence[DecodedRecord | InvalidRecord]) -> list[Task]:
    """Return what `execute` is to do, one task per record."""
    return [_task(item) for item in items]


def _task(item: DecodedRecord | InvalidRecord) -> Task:
    if isinstance(item, InvalidRecord):
        return DeadLetterTask(item.dead_letter)
    return EventTask(item.command, item.event.digest, item.record, item.event.type)
