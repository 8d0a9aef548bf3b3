"""The consumer: batches of raw records from all topics in, through `execute`, then the offsets.

Built on one FastStream batch subscriber. What FastStream and aiokafka would do with a record they
cannot read, with an exception, with positions and with rebalances is each taken out of their hands
here; the reason stands beside each.
"""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from aiokafka import ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaMessage

from domain.model import Policy
from engine import metrics
from engine.backoff import Backoff
from engine.crash import crash_on_bug
from engine.execute import execute
from engine.tasks import BatchResult, DeadLetterTask, EventTask, Task, TaskDisposition
from storage import save
from storage.database import Pool
from storage.errors import in_words, is_contention, is_unavailable
from storage.save import PartitionProgress
from workers.consuming import lenient_headers, traces
from workers.consuming.breaker import FloodBreaker
from workers.consuming.client import Broker, RecordClient, in_time
from workers.consuming.records import DecodedRecord, InvalidRecord, read_records
from workers.consuming.watermarks import WatermarkTracker, next_offsets, positions_of

logger = logging.getLogger(__name__)

BUG = "A bug stopped this worker; its batch will be delivered again"

TICK_SECONDS = 1.0
REGISTER_TIMEOUT_SECONDS = 5.0
FIRST_RETRY_SECONDS = 0.05
LAST_RETRY_SECONDS = 2.0
BATCH_TIMEOUT_MS = 200
# What is read ahead of a partition while another is further behind. Kafka hands out a larger record all the same.
PARTITION_FETCH_BYTES = 256 * 1024
MARGIN_BELOW_REBALANCE_TIMEOUT_SECONDS = 5.0
# Records gather at the broker for at most as long while a batch is applied. Longer than a batch takes, shorter than
# anything takes that watches over the consumer.
GATHER_SECONDS = 0.1
# Offsets are committed at most as often. What was applied and is delivered again is suppressed.
OFFSETS_SECONDS = 0.1
# The stream's clock is written with a batch at most as often. Small batches touch as many partitions as large ones.
PROGRESS_SECONDS = 0.1
# Records decoded at a stretch; in between the database's answer to the batch before is heard.
DECODED_AT_ONCE = 32
# Longer than any rebalance takes; who waits so long for its partitions will not get any (aiokafka #1154).
JOIN_LIMIT_SECONDS = 300.0


class ConsumerOptions(NamedTuple):
    """What the consumer needs to know of the deployment."""

    topics: Sequence[str]
    prefix: str
    group_id: str
    batch_max_records: int
    session_timeout_ms: int
    heartbeat_interval_ms: int
    rebalance_timeout_ms: int
    fetch_max_wait_ms: int


async def parse_raw(records: tuple[ConsumerRecord, ...], original: Any) -> KafkaMessage:  # noqa: ANN401 - FastStream's parser
    """Wrap the batch without touching the records' headers.

    FastStream's own parser decodes every header as UTF-8 before the handler: one null or binary
    header loses the whole batch. It gets a copy of the first record without headers instead.
    """
    message: KafkaMessage = await original((dataclasses.replace(records[0], headers=()),))
    message.raw_message = records
    return message


async def decode_raw(message: KafkaMessage) -> list[ConsumerRecord]:
    """Hand over the raw records; nothing here can fail."""
    return list(message.raw_message)


class Consumer(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka is published without types
    """Applies batches and keeps account of how far every partition has been read.

    `after_commit` is called with each result once its transaction is committed.
    """

    def __init__(
        self,
        pool: Pool,
        policy: Policy,
        options: ConsumerOptions,
        breaker: FloodBreaker,
        clock: Callable[[], datetime],
        after_commit: Callable[[BatchResult], None],
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._options = options
        self._breaker = breaker
        self._clock = clock
        self._after_commit = after_commit
        self._running: asyncio.Task[None] | None = None
        self._uncommitted: dict[TopicPartition, int] = {}
        self._committing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._generation = 0
        self._subscriber: Any = None
        self._stream = WatermarkTracker(options.prefix)
        self._delivered = 0
        self._handled = 0
        self._delivered_at_tick = 0
        self._next_look_at_idle = 0.0
        self._next_progress = 0.0
        self._stopping = False
        self.assigned: frozenset[TopicPartition] = frozenset()
        # Since when it waits for the group to say which partitions are its own; None once it has been told.
        self.joining_since: float | None = time.monotonic()
        self.paused_because: str | None = None
        self.waits_for_database = False
        self.last_progress = time.monotonic()
        self.lag = 0

    # --- wiring ---------------------------------------------------------------------------------

    def subscribe(self, broker: Broker) -> None:
        """Register the one batch subscriber over all topics with FastStream."""
        lenient_headers.install()
        options = self._options
        broker.make_client = partial(RecordClient, self._gathered)
        self._subscriber = broker.subscriber(
            *(options.prefix + topic for topic in options.topics),
            group_id=options.group_id,
            batch=True,
            max_records=options.batch_max_records,
            batch_timeout_ms=BATCH_TIMEOUT_MS,
            # Offsets are committed by us, after the transaction, for what was processed: FastStream's
            # ack and a commit without arguments commit the position, which is ahead of that.
            ack_policy=AckPolicy.MANUAL,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            # Partition i of every topic goes to one worker: an order's events then meet in one process.
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=options.session_timeout_ms,
            heartbeat_interval_ms=options.heartbeat_interval_ms,
            rebalance_timeout_ms=options.rebalance_timeout_ms,
            fetch_max_wait_ms=options.fetch_max_wait_ms,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            listener=self,
            parser=parse_raw,
            decoder=decode_raw,
            no_reply=True,
        )
        self._subscriber(self.on_batch)

    @property
    def client(self) -> RecordClient | None:
        """The Kafka client while FastStream runs it."""
        return None if self._subscriber is None else self._subscriber.consumer

    def last_poll_age(self) -> float | None:
        """Return for how many seconds Kafka has not answered although it was asked; None where it never was."""
        client = self.client
        if client is None or client.asking_since is None:
            return None
        asked = [client.last_poll_timestamp(partition) for partition in client.assignment()]
        known = [timestamp for timestamp in asked if timestamp is not None]
        return min(time.time() - max(known) / 1000, time.monotonic() - client.asking_since) if known else None

    def overdue_in_joining(self) -> float | None:
        """Return the seconds it has waited to be told its partitions, where no rebalance takes so long; else None."""
        if self.joining_since is None:
            return None
        waited = time.monotonic() - self.joining_since
        limit = max(JOIN_LIMIT_SECONDS, 2 * self._options.rebalance_timeout_ms / 1000)
        return waited if waited > limit else None

    async def drain(self) -> None:
        """Take no more batches; finish the one at hand, unless it waits for a database that is away."""
        self._stopping = True
        await self._finished()
        await self._offsets_committed()

    # --- one batch ------------------------------------------------------------------------------

    async def on_batch(self, records: list[Any]) -> None:
        """Decode a batch while the one before it is in the database, then apply it in its turn.

        FastStream swallows whatever a handler raises and goes on behind the lost batch, so nothing is
        ever raised here: what is not expected ends the process, which is restarted and redelivered.
        """
        with crash_on_bug(BUG):
            self._delivered += 1
            generation = self._generation
            now = self._clock()
            records = in_time(records)
            items = await self._decoded(records, now)
            await self._finished()
            # The last wait before the batch is begun: behind it a stop or a rebalance would find no batch to wait for.
            others = await self._others(records)
            if self._stopping or generation != self._generation:
                self._handled += 1
                return  # not applied and not committed: whoever has the partitions next gets it again
            trouble = self._breaker.admit(
                [(record.topic, isinstance(item, InvalidRecord)) for record, item in zip(records, items, strict=True)]
            )
            if trouble is not None:
                self._handled += 1
                self._pause(records, trouble)
                return
            progress = [*self._progress(records, items, now), *others]
            self._running = asyncio.create_task(self._apply_or_die(records, items, progress, now), name="batch")

    async def _decoded(self, records: Sequence[ConsumerRecord], now: datetime) -> list[DecodedRecord | InvalidRecord]:
        """Decode a batch, in between whatever else there is to do: above all the batch before it."""
        items: list[DecodedRecord | InvalidRecord] = []
        seconds = 0.0
        for start in range(0, len(records), DECODED_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            started = time.perf_counter()
            items += read_records(records[start : start + DECODED_AT_ONCE], self._options.prefix, now)
            seconds += time.perf_counter() - started
        metrics.BATCH_DURATION.labels("decode").observe(seconds)
        return items

    async def _finished(self) -> None:
        """Wait until no batch is being applied."""
        if self._running is not None:
            await asyncio.shield(self._running)

    async def _gathered(self) -> None:
        """Wait until no batch is being applied, but no longer than records may gather meanwhile."""
        if self._running is not None:
            await asyncio.wait((self._running,), timeout=GATHER_SECONDS)

    async def _offsets_committed(self) -> None:
        """Wait until the offsets of everything that was applied are committed, or cannot be."""
        self._hurry.set()
        if self._committing is not None:
            await asyncio.shield(self._committing)

    async def _apply_or_die(
        self,
        records: Sequence[ConsumerRecord],
        items: Sequence[DecodedRecord | InvalidRecord],
        progress: list[PartitionProgress],
        now: datetime,
    ) -> None:
        with crash_on_bug(BUG):
            await self._apply(records, items, progress, now)
            self._handled += 1

    async def _apply(
        self,
        records: Sequence[ConsumerRecord],
        items: Sequence[DecodedRecord | InvalidRecord],
        progress: list[PartitionProgress],
        now: datetime,
    ) -> None:
        started = time.perf_counter()
        tasks = [_task(item) for item in items]
        with traces.batch_span(len(tasks), map(_traceparent, items)):
            result = await self._until_applied(tasks, progress)
        if result is None:
            return
        self._stream.written(progress)
        self._after_commit(result)
        offsets = next_offsets(records)
        self._stream.processed(offsets)
        self._uncommitted |= offsets
        # The next batch need not wait for Kafka's answer: one commit is under way at a time, in order.
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_or_die(), name="offsets")
        finished = time.perf_counter()
        _measure(items, result, now)
        for stage, seconds in result.seconds._asdict().items():
            metrics.BATCH_DURATION.labels(stage).observe(seconds)
        metrics.BATCH_DURATION.labels("total").observe(finished - started)
        self.last_progress = time.monotonic()

    async def _until_applied(self, tasks: list[Task], progress: list[PartitionProgress]) -> BatchResult | None:
        """Try until the database takes the batch; None when we are asked to stop meanwhile."""
        backoff = Backoff(FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS)
        since = time.monotonic()
        told = False
        while True:
            try:
                result = await execute(self._pool, tasks, self._policy, self._clock(), progress=progress)
            except Exception as error:
                if not is_unavailable(error):
                    raise
                if not told:
                    logger.warning("The database cannot be used (%s); the batch waits for it", in_words(error))
                    told = self.waits_for_database = True
                if self._stopping:
                    return None
                await backoff.wait()
            else:
                self.waits_for_database = False
                if told:
                    logger.info("The database is back after %.1f s", time.monotonic() - since)
                return result

    async def _commit_or_die(self) -> None:
        with crash_on_bug(BUG):
            await self._commit_offsets()

    async def _commit_offsets(self) -> None:
        """Commit how far was applied, now and then, until there is nothing new."""
        self._hurry.clear()
        while self._uncommitted:
            offsets, self._uncommitted = self._uncommitted, {}
            await self._commit(offsets)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OFFSETS_SECONDS):
                    await self._hurry.wait()

    async def _commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit what was processed; where that fails the inbox suppresses the redelivery."""
        client = self.client
        if client is None:
            return
        started = time.perf_counter()
        try:
            await client.commit(dict(offsets))
            metrics.BATCH_DURATION.labels("offsets").observe(time.perf_counter() - started)
        except (CommitFailedError, IllegalStateError) as error:
            metrics.COMMIT_LOST.inc()
            logger.info("The partitions moved before their offsets were committed: %s", in_words(error))
        except (KafkaError, TimeoutError) as error:
            metrics.COMMIT_LOST.inc()
            logger.warning("The offsets could not be committed, the next batch's will do: %s", in_words(error))

    def _pause(self, records: Sequence[ConsumerRecord], trouble: str) -> None:
        """Stop consuming and put the batch back; people decide how it goes on."""
        client = self.client
        if client is None:
            return
        first: dict[TopicPartition, int] = {}
        for record in records:
            first.setdefault(TopicPartition(record.topic, record.partition), record.offset)
        for partition, offset in first.items():
            if partition in client.assignment():
                client.seek(partition, offset)
        client.shut()
        self.paused_because = trouble
        logger.error(
            "Consumption is paused: %s. Mend the producer or this deployment and restart the worker; if the records "
            "really are all bad, raise INVENTORY_DEAD_LETTER_BREAKER_CONSECUTIVE and _RATIO and restart",
            trouble,
        )

    # --- the stream's clock ---------------------------------------------------------------------

    def _progress(
        self, records: Sequence[ConsumerRecord], items: Sequence[DecodedRecord | InvalidRecord], now: datetime
    ) -> list[PartitionProgress]:
        """Return rows for the batch's partitions, now and then: a clock that is a little late expires nothing early."""
        started = time.monotonic()
        if started < self._next_progress:
            return self._stream.unread()
        self._next_progress = started + PROGRESS_SECONDS
        rows = self._stream.of_batch(self.client, records, items, now)
        return rows + self._stream.unread(next_offsets(records))

    async def _others(self, records: Sequence[ConsumerRecord]) -> list[PartitionProgress]:
        """Return, about once a second, rows for the partitions that are idle while this batch is not.

        All batches before this one are applied, so where the client stands has been processed.
        """
        client, now = self.client, time.monotonic()
        if client is None or now < self._next_look_at_idle:
            return []
        self._next_look_at_idle = now + TICK_SECONDS
        positions = await positions_of(client)
        self._note_lag(self._stream.measure_lag(client, positions))
        for partition in next_offsets(records):
            positions.pop(partition, None)
        return self._stream.of_idle(client, positions)

    async def run_ticks(self) -> None:
        """Let idle partitions keep up with the time, for as long as the task lives."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self.tick()
            except Exception as error:
                if not (is_unavailable(error) or is_contention(error) or isinstance(error, KafkaError)):
                    raise
                logger.debug("The stream's clock could not be written: %s", in_words(error))

    async def tick(self) -> None:
        """Record for every partition that is read to its end that it is, and measure the lag of all.

        Does nothing while a batch is under way: its transaction takes that along (`_others`).
        """
        client = self.client
        if client is None or self._stopping or self._delivered != self._handled:
            return
        positions = await positions_of(client)
        settled = self._stream.settle(positions, quiet=self._delivered == self._delivered_at_tick)
        self._delivered_at_tick = self._delivered
        await self._write_progress([*self._stream.unread(), *self._stream.of_idle(client, settled)])
        self._note_lag(self._stream.measure_lag(client, positions))

    async def _write_progress(self, rows: Sequence[PartitionProgress]) -> None:
        if rows:
            async with self._pool.acquire() as connection:
                await save.save_progress(connection, rows)
            self._stream.written(rows)

    def _note_lag(self, lag: int) -> None:
        if lag == 0 or lag < self.lag:
            self.last_progress = time.monotonic()
        self.lag = lag

    # --- rebalances -----------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Let the batch at hand finish before its partitions go to others, within Kafka's patience.

        Where it does not finish in time, the inbox suppresses what the next owner has applied by then.
        """
        self._generation += 1
        limit = max(self._options.rebalance_timeout_ms / 1000 - MARGIN_BELOW_REBALANCE_TIMEOUT_SECONDS, 1.0)
        try:
            async with asyncio.timeout(limit):
                await self._finished()
                await self._offsets_committed()
        except TimeoutError:
            logger.warning("A batch was still running when its partitions moved on")
        self._stream.forget()
        self._stream.drop_gauges(revoked)
        self.assigned = frozenset()
        self.joining_since = time.monotonic()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Make every partition of every topic known to the stream's clock before the first is read."""
        client = self.client
        self.assigned = frozenset(assigned)
        self.joining_since = None
        self.last_progress = time.monotonic()
        logger.info("This worker has %d partitions", len(assigned))
        if client is None:
            return
        if self.paused_because is not None:
            client.pause(*assigned)
        for topic in self._options.topics:
            name = self._options.prefix + topic
            self._stream.meet(TopicPartition(name, number) for number in client.partitions_for_topic(name) or ())
        try:
            async with asyncio.timeout(REGISTER_TIMEOUT_SECONDS):
                await self._write_progress(self._stream.unread())
        except Exception as error:
            if not is_unavailable(error):
                raise
            logger.warning("The partitions will be registered with the first batch: %s", in_words(error))


def build_broker(bootstrap_servers: Sequence[str], *, graceful_timeout: float, **options: Any) -> Broker:  # noqa: ANN401 - FastStream's options
    """Return FastStream's broker: it runs the consumer; its own producer is not used."""
    return Broker(
        bootstrap_servers,
        graceful_timeout=graceful_timeout,
        logger=None,
        apply_types=False,
        **options,
    )


def _task(item: DecodedRecord | InvalidRecord) -> Task:
    if isinstance(item, InvalidRecord):
        return DeadLetterTask(item.letter)
    return EventTask(item.command, item.event.digest, item.record, item.event.type)


def _traceparent(item: DecodedRecord | InvalidRecord) -> str | None:
    return item.event.traceparent if isinstance(item, DecodedRecord) else None


def _measure(items: Sequence[DecodedRecord | InvalidRecord], result: BatchResult, now: datetime) -> None:
    metrics.BATCH_SIZE.observe(len(items))
    counts: dict[tuple[str, str, TaskDisposition], int] = {}
    for item, verdict in zip(items, result.verdicts, strict=True):
        if isinstance(item, InvalidRecord):
            labels = (item.letter.record.topic, "unknown", verdict.disposition)
        else:
            labels = (item.event.topic, item.event.type, verdict.disposition)
            metrics.EVENT_AGE.observe(max((now - item.event.occurred_at).total_seconds(), 0.0))
        counts[labels] = counts.get(labels, 0) + 1
    for labels, count in counts.items():
        metrics.EVENTS.labels(*labels).inc(count)
    for letter in result.dead_letters:
        metrics.DEAD_LETTERS.labels(letter.record.topic, letter.reason).inc()
        # The message quotes values of the payload, which do not belong into a log: `inventory dlq show` has it.
        logger.warning(
            "A record became dead letter %s (%s)",
            letter.id,
            letter.reason,
            extra={
                "event_id": letter.event_id,
                "topic": letter.record.topic,
                "partition": letter.record.partition,
                "offset": letter.record.offset,
            },
        )
