"""Lag: how many records have not been applied yet, and for how long there has been no progress."""

import time
from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, TopicPartition

from engine import metrics
from workers.consuming.offsets import Offsets


class LagMeter:
    """Measures the lag of each partition; progress is an applied batch, or a lag that falls or is zero."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._progressed_at = time.monotonic()
        self.records = 0

    def progressed(self) -> None:
        """Record progress just now."""
        self._progressed_at = time.monotonic()

    def progress_age(self) -> float:
        """Return the seconds since the last progress."""
        return time.monotonic() - self._progressed_at

    def measure(self, client: AIOKafkaConsumer, positions: Offsets, processed: Offsets) -> None:
        """Set the gauges of each partition, and the total in `records`."""
        total = 0
        for partition, position in positions.items():
            lag = _lag(client.highwater(partition), position, processed.get(partition, position))
            total += lag
            metrics.CONSUMER_LAG.labels(*self._labels(partition)).set(lag)
            polled_ms = client.last_poll_timestamp(partition)
            if polled_ms is not None:
                metrics.LAST_POLL.set(polled_ms / 1000)
        if total == 0 or total < self.records:
            self.progressed()
        self.records = total

    def drop_gauges(self, partitions: Iterable[TopicPartition]) -> None:
        """Remove the gauges of revoked partitions."""
        for partition in partitions:
            metrics.CONSUMER_LAG.remove(*self._labels(partition))

    def _labels(self, partition: TopicPartition) -> tuple[str, str]:
        return partition.topic.removeprefix(self._prefix), str(partition.partition)


def _lag(end: int | None, position: int, processed: int) -> int:
    """Return the lag of one partition; zero at its end, where only control records may follow what was processed."""
    return 0 if end is None or position >= end else max(end - processed, 0)
