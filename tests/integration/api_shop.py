"""The HTTP API for tests: the whole application over a database of its own, and callers with tokens of each role."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from api.app import serve_app
from api.auth import Authenticator, Principal, Role, TokenRules, development_token
from api.gather import Gatherer, GatherLimits
from api.keys import FixedKeys, secret_key
from api.pages import Cursors
from api.services import Limits, Services
from api.watching import Watchers, WatchLimits
from domain.model import Policy
from engine.reading import StockReader
from engine.tasks import BatchResult
from storage.answers import read_cursor_key
from storage.cache import Cache
from storage.database import Pool, open_pool
from tests.integration.shop import Shop

SECRET = "an-hs256-secret-for-tests-of-the-api"  # noqa: S105 - the tests' own
RULES = TokenRules("https://issuer.example", "inventory")
PREFIX = "/api/v1/inventory"
GATHER = GatherLimits(queue=500, batch=100, transactions=2)
LIMITS = Limits(timedelta(minutes=30), timedelta(hours=24), wait_seconds=20, stream_seconds=600)

WATCH_LIMITS = WatchLimits(watches=20, products=50)

DAY_SECONDS = 86_400


def token(
    subject: str = "ann", *roles: Role, seconds: int = DAY_SECONDS, rules: TokenRules = RULES, secret: str = SECRET
) -> str:
    """Return a token; without a role it is a user's.

    Modules make theirs when tests are collected, which on a busy machine may be an hour before the last one runs.
    """
    principal = Principal(subject, frozenset(roles or (Role.USER,)))
    return development_token(secret, rules, principal, seconds, int(time.time()))


@dataclass
class ApiShop(Shop):
    """A shop with an API in front."""

    client: httpx.AsyncClient | None = None

    async def call(
        self,
        method: str,
        path: str,
        bearer: str | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        """Send a request below the prefix; without a token it is an admin's."""
        assert self.client is not None
        bearer = token("root", Role.ADMIN) if bearer is None else bearer
        sent = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        return await self.client.request(
            method, f"{PREFIX}{path}", json=body, headers=sent | dict(headers or {}), params=params
        )


def services_for(pool: Pool, key: bytes, cache: Cache | None = None, limits: Limits = LIMITS) -> Services:
    """Return the services of an API on this database."""
    policy = Policy()

    def after_commit(_result: BatchResult) -> None:
        """Leave the cache as it is."""

    gatherer = Gatherer(pool, policy, GATHER, _now, after_commit)
    watchers = Watchers(pool, WATCH_LIMITS, limits.wait_seconds)
    reader = StockReader(pool, cache, _now)
    return Services(pool, reader, Cursors(key), limits, gatherer, policy, _now, after_commit, watchers)


def _now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def open_process(
    pool: Pool, key: bytes = b"key", cache: Cache | None = None, limits: Limits = LIMITS
) -> AsyncIterator[ApiShop]:
    """Open a process of the API on a pool; requests go straight to the application."""
    app = serve_app(services_for(pool, key, cache, limits), Authenticator(FixedKeys([secret_key(SECRET)]), RULES))
    # A bug is to be seen as the 500 that a client would get.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield ApiShop(pool, client=client)


@asynccontextmanager
async def open_api_shop(
    url: str, cache: Cache | None = None, size: int = 5, limits: Limits = LIMITS
) -> AsyncIterator[ApiShop]:
    """Open a shop and its API on a migrated database."""
    pool = await open_pool(url, size)
    try:
        async with pool.acquire() as connection:
            key = await read_cursor_key(connection)
        async with open_process(pool, key, cache, limits) as opened:
            yield opened
    finally:
        await pool.close()


def items(**lines: int) -> list[dict[str, Any]]:
    """Return lines as a request carries them."""
    return [{"product_id": product_id, "quantity": quantity} for product_id, quantity in lines.items()]


def kind(answer: httpx.Response) -> tuple[int, str]:
    """Return a problem's status and name."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert answer.json()["status"] == answer.status_code
    return answer.status_code, answer.json()["type"].rpartition(":")[2]
