"""Committing offsets: after the transaction, explicitly per partition, at a bounded rate, one commit in flight.

PostgreSQL has the batch already when its offsets are committed here. A commit that is lost costs a redelivery, which
the inbox suppresses.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from engine import metrics
from engine.crash import crash_on_bug
from storage.errors import in_words
from workers.consuming.client import RecordClient

logger = logging.getLogger(__name__)

# Minimum interval between offset commits; the inbox deduplicates redeliveries.
COMMIT_INTERVAL_SECONDS = 0.1

Offsets: TypeAlias = Mapping[TopicPartition, int]


def next_offsets(records: Sequence[ConsumerRecord]) -> dict[TopicPartition, int]:
    """Return, for each partition of the batch, the offset after its last record."""
    offsets = {(record.topic, record.partition): record.offset + 1 for record in records}
    return {TopicPartition(*partition): offset for partition, offset in offsets.items()}


class OffsetCommitter:
    """Knows which offsets were applied and not committed yet, and commits them in the background."""

    def __init__(self, get_client: Callable[[], RecordClient | None]) -> None:
        self._get_client = get_client
        self._uncommitted: dict[TopicPartition, int] = {}
        self._committing: asyncio.Task[None] | None = None
        self._flush = asyncio.Event()

    def applied(self, offsets: Offsets) -> None:
        """Commit `offsets` soon; the next batch does not wait for Kafka's answer."""
        self._uncommitted |= offsets
        if self._committing is None or self._committing.done():
            self._flush.clear()
            self._committing = asyncio.create_task(self._commit_all(), name="offsets")

    async def flush(self) -> None:
        """Return when all applied offsets are committed, or their commit has failed."""
        self._flush.set()
        if self._committing is not None:
            await asyncio.shield(self._committing)

    async def _commit_all(self) -> None:
        """Commit what was applied, pausing between commits, until nothing is left."""
        with crash_on_bug("A bug stopped this worker as it committed offsets; its records will be redelivered"):
            while self._uncommitted:
                offsets, self._uncommitted = self._uncommitted, {}
                await self._commit(offsets)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(COMMIT_INTERVAL_SECONDS):
                        await self._flush.wait()

    async def _commit(self, offsets: Offsets) -> None:
        client = self._get_client()
        if client is None:
            return
        started = time.perf_counter()
        try:
            await client.commit(dict(offsets))
            metrics.BATCH_DURATION.labels("offsets").observe(time.perf_counter() - started)
        except (CommitFailedError, IllegalStateError) as error:
            metrics.COMMIT_LOST.inc()
            logger.info("Offsets were not committed, as their partitions were reassigned: %s", in_words(error))
        except (KafkaError, TimeoutError) as error:
            metrics.COMMIT_LOST.inc()
            logger.warning("Offsets could not be committed; the next batch's commit covers them: %s", in_words(error))
