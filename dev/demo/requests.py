"""Sends the carts of every third visit to the HTTP API; everything else of the shop goes through Kafka.

The order of such a visit comes through Kafka and takes over the cart's hold, whichever way that was made.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from dev.demo.processes import ProgramFailedError, ProgramProcess
from dev.demo.shop import Publication
from dev.demo.state import DemoState

EVERY_NTH_VISIT: Final = 3
CONNECTIONS: Final = 20
TIMEOUT_SECONDS: Final = 30.0


def goes_over_http(publication: Publication) -> bool:
    """Tell whether the shop sends a publication as a request; outdated snapshots are always events."""
    if publication.topic != "cart.updated" or publication.poison is not None or publication.age:
        return False
    return int(publication.key.removeprefix("cart-")) % EVERY_NTH_VISIT == 0


class CartClient:
    """Sends carts concurrently and counts the answers; `flush` waits for all of them."""

    def __init__(self, client: httpx.AsyncClient, api: ProgramProcess, state: DemoState) -> None:
        self._client = client
        self._api = api
        self._state = state
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._under_way: set[asyncio.Task[None]] = set()

    async def send(self, publication: Publication) -> None:
        """Send a cart; returns as soon as a connection is free for it."""
        await self._free.acquire()
        self._state.requests[publication.kind] += 1
        task = asyncio.create_task(self._send(publication))
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    async def flush(self) -> None:
        """Wait for all answers; raises ProgramFailedError where one is not what the shop expects."""
        await asyncio.gather(*self._under_way)

    async def _send(self, publication: Publication) -> None:
        cart: dict[str, Any] = {name: value for name, value in publication.data.items() if name != "version"}
        answer = await self._client.post(
            "/reserve/cart", json={**cart, "partial": True}, headers={"Idempotency-Key": publication.event_id}
        )
        if answer.status_code != httpx.codes.OK:
            raise ProgramFailedError("the API", f"answered {answer.status_code}: {answer.text}", self._api.log)
        self._state.answers["short" if answer.json()["short"] else "held"] += 1

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._free.release()
        # One that failed is kept for `flush`, which raises its error.
        if not task.cancelled() and task.exception() is None:
            self._under_way.discard(task)


@asynccontextmanager
async def open_cart_client(url: str, token: str, api: ProgramProcess, state: DemoState) -> AsyncIterator[CartClient]:
    """Give a client of the API with this token."""
    async with httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {token}"},
        timeout=TIMEOUT_SECONDS,
        limits=httpx.Limits(max_connections=CONNECTIONS),
    ) as client:
        yield CartClient(client, api, state)
