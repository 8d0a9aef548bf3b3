"""A broker, a database and the settings of a worker for both."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from dev.servers.kafka import Broker
from inventory.settings import Settings
from inventory.worker import Worker
from tests.integration.shop import Shop, open_shop
from tests.integration.stream import Producer, environment_of, eventually, producing, settings_for

_REPOSITORY = Path(__file__).parents[2]
TTL = timedelta(seconds=3)


@dataclass
class WorkerStage:
    """A broker with topics of its own, an empty database, and the settings of a worker for both."""

    settings: Settings
    shop: Shop
    producer: Producer
    bootstrap_servers: str
    prefix: str

    def with_settings(self, **changes: Any) -> Settings:
        """Return the worker's settings with changes, validated as all settings are."""
        return Settings(**{**self.settings.model_dump(exclude_unset=True), **changes})

    async def count(self, query: str) -> int:
        """Count the rows of a table expression."""
        number: int = await self.shop.pool.fetchval(f"SELECT count(*) FROM {query}")  # noqa: S608 - constants
        return number

    async def wait_for(self, query: str, number: int = 1) -> None:
        """Wait until a table expression has at least `number` rows."""
        try:
            await eventually(lambda: self._reached(query, number))
        except AssertionError:
            raise AssertionError(f"{query}: {await self.count(query)} instead of {number}") from None

    async def _reached(self, query: str, number: int) -> bool:
        return await self.count(query) >= number


@asynccontextmanager
async def open_stage(kafka: Broker, topics: str, database_url: str) -> AsyncIterator[WorkerStage]:
    """Open a stage without a worker."""
    settings = settings_for(kafka.bootstrap_servers, topics, database_url)
    async with open_shop(database_url) as shop, producing(kafka.bootstrap_servers, topics) as producer:
        yield WorkerStage(settings, shop, producer, kafka.bootstrap_servers, topics)


async def is_true(condition: Any) -> Any:
    """Ask a condition that does not have to wait."""
    return condition()


async def look(running: Worker, path: str) -> tuple[int, str]:
    """Return the status and text of a page of the worker's."""

    def get() -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{running.port}/{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()

    return await asyncio.to_thread(get)


async def ask(running: Worker, path: str) -> int:
    """Return the status of a page of the worker's."""
    return (await look(running, path))[0]


async def wall_passes(moment: datetime) -> None:
    """Wait until the wall clock is past a moment; no condition can shorten this."""

    async def passed() -> bool:
        return datetime.now(UTC) > moment

    await eventually(passed)


async def start_program(settings: Settings, *arguments: str) -> asyncio.subprocess.Process:
    """Start Python with these arguments and the settings."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=_REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(_REPOSITORY), **environment_of(settings)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
