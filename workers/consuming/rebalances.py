"""Rebalances: which partitions this worker has, and what it finishes before they are revoked."""

import asyncio
import logging
import time
from collections.abc import Callable

from aiokafka import ConsumerRebalanceListener, TopicPartition

from engine.crash import crash_on_bug
from workers.consuming.applying import BatchApplier
from workers.consuming.client import RecordClient
from workers.consuming.offsets import OffsetCommitter
from workers.consuming.placement import Placement
from workers.consuming.progress import ProgressRecorder

logger = logging.getLogger(__name__)

MARGIN_BELOW_REBALANCE_TIMEOUT_SECONDS = 5.0
# Longest the group is kept waiting; after it, placing goes on in the background.
PLACING_SECONDS = 5.0


class RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka is published without types
    """Finishes the batch in flight before partitions are revoked, and places new ones before they are read.

    Rebalances are eager: all partitions are revoked, then assigned anew, while the batch loop goes on.
    """

    def __init__(
        self,
        rebalance_timeout_seconds: float,
        get_client: Callable[[], RecordClient | None],
        applier: BatchApplier,
        offsets: OffsetCommitter,
        progress: ProgressRecorder,
        placement: Placement,
    ) -> None:
        self._finish_seconds = max(rebalance_timeout_seconds - MARGIN_BELOW_REBALANCE_TIMEOUT_SECONDS, 1.0)
        self._get_client = get_client
        self._applier = applier
        self._offsets = offsets
        self._progress = progress
        self._placement = placement
        self._placing: asyncio.Task[None] | None = None
        # Counts revocations: a batch received under an older number may belong to another worker now.
        self.generation = 0
        self.assigned: frozenset[TopicPartition] = frozenset()
        # Since when the group has not said which partitions are ours (monotonic); None once it has.
        self.joining_since: float | None = time.monotonic()

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Let the batch in flight finish, within the time that Kafka allows.

        If it takes longer, the next owner reads its records again; the inbox suppresses what was applied twice.
        """
        self.generation += 1
        if self._placing is not None:
            self._placing.cancel()
            await asyncio.wait({self._placing})
        try:
            async with asyncio.timeout(self._finish_seconds):
                await self._applier.finished()
                await self._offsets.flush()
        except TimeoutError:
            logger.warning(
                "Partitions were revoked while a batch of theirs was still in flight; it will be redelivered"
            )
        self._progress.forget(revoked)
        self.assigned = frozenset()
        self.joining_since = time.monotonic()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Register every partition of every topic, and place ours, before the first record is read.

        While the database is away nothing is read, and the worker does not count as having partitions.
        """
        self.joining_since = None
        logger.info("This worker has %d partitions", len(assigned))
        client = self._get_client()
        if client is None:
            return
        client.keep_suspended()
        client.hold()
        self._placing = asyncio.create_task(self._place(client, assigned), name="placement")
        await asyncio.wait({self._placing}, timeout=PLACING_SECONDS)

    async def _place(self, client: RecordClient, assigned: set[TopicPartition]) -> None:
        with crash_on_bug("A bug stopped this worker as it looked for where to read from"):
            await self._progress.register(client)
            await self._placement.place(client, assigned)
            self.assigned = frozenset(assigned)
