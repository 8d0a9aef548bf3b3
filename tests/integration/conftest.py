"""What several of these tests start from."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from dev.servers.kafka import Broker
from domain.commands import CreateProduct
from storage.cache import Cache
from storage.database import Pool, open_pool
from tests.integration import sample, stock_program
from tests.integration.relays import RelayStage
from tests.integration.shop import Shop, open_shop


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[Cache]:
    """A cache on an empty Redis."""
    opened = Cache(redis_url, "t:")
    yield opened
    await opened.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    """A plain Redis client, to inspect what the cache stored; untyped because redis types its two clients as one."""
    opened = Redis.from_url(redis_url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def sample_pool(database_url: str) -> AsyncIterator[Pool]:
    """A pool on a database where apples are in stock and bread is low."""
    opened = await open_pool(database_url, 4)
    await sample.apply(
        opened,
        CreateProduct(sample.cause("a"), "apple", 50, 10),
        CreateProduct(sample.cause("b"), "bread", 5, 5),
    )
    yield opened
    await opened.close()


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop]:
    """An empty shop."""
    async with open_shop(database_url) as opened:
        yield opened


@pytest.fixture
async def stage(kafka: Broker, topics: str, database_url: str) -> AsyncIterator[RelayStage]:
    """A stage without a relay; tests of other publishers have stages of their own."""
    async with open_shop(database_url) as opened:
        made = RelayStage(opened, database_url, kafka.bootstrap_servers, topics)
        yield made
        await made.stop()


@pytest.fixture
def stocked_shop(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three products in the database that the program's settings name; return its URL."""
    monkeypatch.setenv("INVENTORY_DATABASE_URL", database_url)
    monkeypatch.delenv("INVENTORY_REDIS_URL", raising=False)
    asyncio.run(stock_program.fill(database_url))
    return database_url
