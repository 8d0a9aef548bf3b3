"""`python -m dev.chaos.ablated_worker NAME`: `inventory run` with one safeguard removed.

The program has no switches for this: each ablation replaces a function of the worker in this process before it starts.
`whole` removes nothing; every scenario must be green with it.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from dev.chaos.errors import ChaosError
from engine import execute
from inventory.commands.run import run
from inventory.settings import load_settings
from storage import load, save
from storage.save import InboxRow, OutboxRow
from workers.consuming import subscription
from workers.consuming.batches import Batch
from workers.consuming.consumer import Consumer
from workers.consuming.offsets import next_offsets
from workers.publishing.kafka_headers import event_headers

logger = logging.getLogger(__name__)

# Long enough that a kill hits it.
LINGER_MS = 1500

_INSERT = """
INSERT INTO inbox (event_id, source, digest, outcome, reason)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[]) ON CONFLICT DO NOTHING
"""


def inbox_off() -> None:
    """Never look up the inbox. Rows are still written, so the checker has to notice the effect, not a missing row."""

    async def known_events(_connection: Any, _keys: Collection[Any]) -> dict[Any, bytes]:  # noqa: ANN401 - asyncpg
        return {}

    async def append_inbox(connection: Any, rows: Iterable[InboxRow]) -> None:  # noqa: ANN401 - asyncpg
        records = sorted(rows)
        if records:
            await connection.execute(_INSERT, *map(list, zip(*records, strict=True)))

    load.known_events = known_events  # type: ignore[assignment] # a simpler signature than the original's
    save.append_inbox = append_inbox


def offsets_first() -> None:
    """Commit the offsets, then apply the batch: at most once."""
    initialize = Consumer.__init__

    def initialize_offsets_first(self: Consumer, *arguments: Any) -> None:  # noqa: ANN401 - passed on
        initialize(self, *arguments)
        apply = self._applier._apply

        async def commit_and_apply(batch: Batch) -> None:
            await self._offsets._commit(next_offsets(batch.records))
            await apply(batch)

        self._applier._apply = commit_and_apply  # type: ignore[method-assign]

    Consumer.__init__ = initialize_offsets_first  # type: ignore[method-assign,assignment]


def stock_parser() -> None:
    """Let FastStream parse the batch; it decodes every header as text."""

    async def parse(records: Any, original: Any) -> Any:  # noqa: ANN401 - FastStream's parser
        return await original(records)

    subscription.parse_raw = parse


def wall_clock() -> None:
    """Expire holds by the wall clock, however far the partitions have been read."""

    async def low_watermark(connection: Any, partitions: Any = ()) -> datetime:  # noqa: ANN401 - asyncpg
        del connection, partitions
        return datetime.now(UTC)

    load.low_watermark = low_watermark


def no_locks() -> None:
    """Read orders, carts and products without locking them."""
    for name in ("_ORDERS", "_CARTS", "_PRODUCTS"):
        statement: str = getattr(load, name)
        if " FOR NO KEY UPDATE" not in statement:
            raise ChaosError(f"storage.load.{name} takes no lock; adapt this ablation to where the lock is taken now")
        setattr(load, name, statement.replace(" FOR NO KEY UPDATE", ""))
    load._skipping = lambda statement, **_: statement


def no_outbox() -> None:
    """Publish after the commit without an outbox; rows are written as already published, for the checker to compare."""
    pending: list[OutboxRow] = []
    transact = execute._transact
    append = save.append_outbox
    sender = _DirectSender()

    async def append_outbox(connection: Any, rows: Sequence[OutboxRow]) -> None:  # noqa: ANN401 - asyncpg
        await append(connection, rows)
        await connection.execute("UPDATE outbox SET published_at = now() WHERE published_at IS NULL")
        pending.extend(rows)

    async def transact_and_publish(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - passed on
        report = await transact(*arguments, **options)
        rows = list(pending)
        pending.clear()
        await sender.send(rows)
        return report

    save.append_outbox = append_outbox
    execute._transact = transact_and_publish


class _DirectSender:
    """Fire and forget, as a program without an outbox does, with a linger for throughput."""

    def __init__(self) -> None:
        self._producer: AIOKafkaProducer | None = None
        self._settings = load_settings()
        self._lock = asyncio.Lock()

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        async with self._lock:
            if self._producer is None:
                self._producer = AIOKafkaProducer(
                    bootstrap_servers=self._settings.kafka_bootstrap_servers, acks="all", linger_ms=LINGER_MS
                )
                await self._producer.start()
        for row in rows:
            try:
                await self._producer.send(
                    self._settings.kafka_topic_prefix + row.topic,
                    row.payload.encode(),
                    key=row.key.encode(),
                    headers=event_headers(row),  # type: ignore[arg-type] # an id, a type, a time, headers
                )
            except KafkaError as error:
                logger.warning("Lost an outgoing event: %s", error)


def whole() -> None:
    """Remove nothing."""


ABLATIONS: Mapping[str, Callable[[], None]] = {
    ablation.__name__: ablation
    for ablation in (whole, inbox_off, offsets_first, stock_parser, wall_clock, no_locks, no_outbox)
}


def main() -> None:
    """Apply the ablation that the command line names and run the worker."""
    ABLATIONS[sys.argv[1]]()
    roles = sys.argv[3] if sys.argv[2:3] == ["--roles"] else "consumer,relay,sweeper"
    run(roles=roles)


if __name__ == "__main__":
    main()
