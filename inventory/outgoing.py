"""What `inventory outbox` reads and changes of the outgoing events that Kafka will never accept."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import asyncpg

from inventory.database import connection, unreachable
from inventory.settings import Settings
from storage import outbox_queries
from storage.database import Connection
from storage.outbox_queries import UnpublishableEvent

QUERY_TIMEOUT_SECONDS: Final = 30.0
MOST: Final = 10_000


async def unpublishable(settings: Settings, limit: int) -> Sequence[UnpublishableEvent]:
    """Return the oldest unpublishable events."""
    async with _connected(settings) as connected:
        return await outbox_queries.unpublishable(connected, limit)


async def chosen(settings: Settings, ids: Collection[UUID] | None) -> Sequence[UnpublishableEvent]:
    """Return those unpublishable events that have one of `ids`; None stands for all."""
    async with _connected(settings) as connected:
        return await outbox_queries.unpublishable(connected, MOST, ids)


async def retry(settings: Settings, ids: Collection[UUID]) -> int:
    """Make unpublishable events pending again; returns how many."""
    async with _connected(settings) as connected:
        return await outbox_queries.retry(connected, ids)


async def discard(settings: Settings, ids: Collection[UUID], note: str) -> int:
    """Give up unpublishable events for good; returns how many."""
    async with _connected(settings) as connected:
        return await outbox_queries.discard(connected, ids, datetime.now(UTC), note)


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Connection]:
    """Give a connection for QUERY_TIMEOUT_SECONDS; raises OperatorError when the database does not answer."""
    async with connection(settings) as connected:
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_SECONDS):
                yield connected
        except (TimeoutError, asyncpg.InterfaceError) as error:
            raise unreachable(settings, error) from error
