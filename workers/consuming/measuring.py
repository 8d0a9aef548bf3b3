"""Metrics of a batch, and one log line for each of its dead letters."""

import logging
from datetime import datetime

from engine import metrics
from engine.tasks import BatchResult, TaskDisposition
from storage.dead_letters import DeadLetter
from workers.consuming.batches import Batch
from workers.consuming.records import InvalidRecord

logger = logging.getLogger(__name__)


def measure_batch(batch: Batch, result: BatchResult, seconds: float) -> None:
    """Record an applied batch, which took `seconds` in all: its size, stages, events and dead letters."""
    metrics.BATCH_SIZE.observe(len(batch.items))
    for stage, stage_seconds in result.seconds._asdict().items():
        metrics.BATCH_DURATION.labels(stage).observe(stage_seconds)
    metrics.BATCH_DURATION.labels("total").observe(seconds)
    _count_events(batch, result, batch.received_at)
    for dead_letter in result.dead_letters:
        metrics.DEAD_LETTERS.labels(dead_letter.record.topic, dead_letter.reason).inc()
        _log(dead_letter)


def _count_events(batch: Batch, result: BatchResult, now: datetime) -> None:
    counts: dict[tuple[str, str, TaskDisposition], int] = {}
    for item, verdict in zip(batch.items, result.verdicts, strict=True):
        if isinstance(item, InvalidRecord):
            labels = (item.dead_letter.record.topic, "unknown", verdict.disposition)
        else:
            labels = (item.event.topic, item.event.type, verdict.disposition)
            metrics.EVENT_AGE.observe(max((now - item.event.occurred_at).total_seconds(), 0.0))
        counts[labels] = counts.get(labels, 0) + 1
    for labels, count in counts.items():
        metrics.EVENTS.labels(*labels).inc(count)


def _log(dead_letter: DeadLetter) -> None:
    # Without the message: it quotes values of the payload, which must not be logged. `inventory dlq show` prints it.
    logger.warning(
        "A record became dead letter %s (%s)",
        dead_letter.id,
        dead_letter.reason,
        extra={
            "event_id": dead_letter.event_id,
            "topic": dead_letter.record.topic,
            "partition": dead_letter.record.partition,
            "offset": dead_letter.record.offset,
        },
    )
