"""Watching stock over HTTP: the stream of server-sent events, and `wait` on one product."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import httpx
import pytest
from prometheus_client import Gauge

from api import metrics, watching
from api.app import serve_app
from api.auth import Authenticator
from api.keys import FixedKeys, secret_key
from api.routes import stream as stream_module
from api.services import Services
from inventory.http_port import HttpPort
from storage import stock
from storage.answers import read_cursor_key
from storage.database import open_pool
from tests.integration.api_process import PROCESS_RULES, api_process, client_of
from tests.integration.api_shop import LIMITS, PREFIX, RULES, SECRET, WATCH_LIMITS, services_for, token
from tests.integration.shop import Shop, adjusted, created, open_shop, product
from tests.integration.stream import eventually

PATIENCE_SECONDS = 60
Event = tuple[str, dict[str, Any]]


@dataclass
class Served:
    """A shop, and an API on a port that commits nothing of what the shop does: another process, for all it knows."""

    shop: Shop
    services: Services
    client: httpx.AsyncClient

    @asynccontextmanager
    async def stream(self, *product_ids: str, bearer: str | None = None) -> AsyncIterator["Stream"]:
        """Open a stream inside the block."""
        async with opened(self.client, product_ids, bearer or token()) as stream:
            yield stream

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """Get something with a user's token."""
        sent = {
            "Authorization": f"Bearer {token()}",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return await self.client.get(f"{PREFIX}{path}", headers=sent)

    async def nobody_watches(self) -> None:
        """Wait until no stream and no request watches."""

        async def none() -> bool:
            return (_value(metrics.WATCHES), _value(metrics.WATCHED_PRODUCTS)) == (0, 0)

        await eventually(none, why="somebody still watches")


def _value(gauge: Gauge) -> float:
    return float(gauge._value.get())  # noqa: SLF001 - the client offers no other way


class Stream:
    """A stream as a client reads it."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def line(self) -> str:
        """Return the next line."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await anext(self._lines)

    async def event(self) -> Event:
        """Return the next event; comments are passed over."""
        kind = ""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                line = await self.line()
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    return kind, json.loads(line.removeprefix("data: "))

    async def ended(self) -> bool:
        """Say whether nothing but an empty line is left."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return [line async for line in self._lines if line] == []


@asynccontextmanager
async def opened(client: httpx.AsyncClient, product_ids: tuple[str, ...], bearer: str) -> AsyncIterator[Stream]:
    """Open a stream with any client."""
    params = {"product_id": list(product_ids)}
    headers = {"Authorization": f"Bearer {bearer}"}
    async with client.stream("GET", f"{PREFIX}/stream", params=params, headers=headers) as response:
        yield Stream(response)


@asynccontextmanager
async def serving(url: str, **limits: Any) -> AsyncIterator[Served]:
    """Serve an API on a port of its own inside the block."""
    pool = await open_pool(url, 3)
    async with pool.acquire() as connection:
        key = await read_cursor_key(connection)
    services = services_for(pool, key, limits=replace(LIMITS, **limits))
    port = HttpPort("127.0.0.1", 0)
    await port.serve(serve_app(services, Authenticator(FixedKeys([secret_key(SECRET)]), RULES)), 5)
    async with (
        open_shop(url) as shop,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port.port}", timeout=PATIENCE_SECONDS) as client,
    ):
        yield Served(shop, services, client)
        await services.watchers.stop()
    await port.close()
    await pool.close()


@pytest.fixture
async def served(database_url: str) -> AsyncIterator[Served]:
    """An empty shop, served."""
    async with serving(database_url) as made:
        yield made


# --- the stream ---------------------------------------------------------------------------------


async def test_a_stream_begins_with_the_state_and_follows_every_commit(served: Served) -> None:
    """First what is, as a look-up shows it, and what does not exist; then what changes, whoever changes it."""
    await served.shop.apply(product("mug", 12, 10), product("tea", 5), product("pot", 1))
    async with served.stream("mug", "ghost", "tea") as stream:
        assert (200, "text/event-stream; charset=utf-8", "no-store") == (
            stream.response.status_code,
            stream.response.headers["content-type"],
            stream.response.headers["cache-control"],
        )
        assert "retry: 2000" == await stream.line()
        first = [await stream.event() for _ in range(3)]
        assert [("level", (await served.get("/mug?fresh=true")).json())] == [
            one for one in first if one[1]["product_id"] == "mug"
        ]
        assert [("level", "mug"), ("level", "tea"), ("unknown", "ghost")] == sorted(
            (kind, data["product_id"]) for kind, data in first
        )
        await served.shop.apply(created("o1", {"mug": 4, "pot": 1}))
        kind, data = await stream.event()
        assert ("level", "mug", 2, 8, "low") == (
            kind,
            data["product_id"],
            data["version"],
            data["available"],
            data["stock_status"],
        )
        await served.shop.apply(product("ghost", 7))
        kind, data = await stream.event()
        assert ("level", "ghost", 7) == (kind, data["product_id"], data["available"])


async def test_versions_only_grow_and_the_last_arrives(served: Served) -> None:
    """Changes that come faster than the polls are merged; none is sent twice."""
    await served.shop.apply(product("mug", 100))
    async with served.stream("mug") as stream:
        for number in range(30):
            await served.shop.apply(adjusted("mug", "ADD", 1, f"e{number}"))
        versions = [(await stream.event())[1]["version"]]
        while versions[-1] < 31:
            versions.append((await stream.event())[1]["version"])
    assert sorted(set(versions)) == versions


async def test_a_change_while_a_stream_begins_is_not_missed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed after the state was read, and seen by other streams before this one began, follows."""
    await served.shop.apply(product("mug", 5))
    original = stock.read_stock
    async with served.stream("mug") as earlier:
        await earlier.event()

        async def read_then_change(*arguments: Any) -> Any:
            found = await original(*arguments)
            await served.shop.apply(created("o1", {"mug": 1}))
            assert 2 == (await earlier.event())[1]["version"]
            return found

        monkeypatch.setattr(stock, "read_stock", read_then_change)
        async with served.stream("mug") as stream:
            assert [1, 2] == [(await stream.event())[1]["version"] for _ in range(2)]


async def test_a_silent_stream_has_comments(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no proxy takes the connection for dead."""
    monkeypatch.setattr(stream_module, "HEARTBEAT_SECONDS", 0.05)
    await served.shop.apply(product("mug", 1))
    async with served.stream("mug") as stream:
        lines = [await stream.line() for _ in range(9)]
    assert 2 <= lines.count(": still here")


async def test_a_stream_ends_with_its_token(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the token would no longer be accepted, the stream says so and ends."""
    monkeypatch.setattr(stream_module, "LEEWAY_SECONDS", -3599)
    await served.shop.apply(product("mug", 1))
    async with served.stream("mug", bearer=token(seconds=3600)) as stream:
        assert "level" == (await stream.event())[0]
        assert ("end", {"reason": "token_expired"}) == await stream.event()
        assert await stream.ended()
    await served.nobody_watches()


async def test_a_stream_ends_after_its_lifetime(database_url: str) -> None:
    """Clients come back, to whichever process takes them."""
    async with serving(database_url, stream_seconds=0.2) as served, served.stream("ghost") as stream:
        assert ("unknown", {"product_id": "ghost"}) == await stream.event()
        assert ("end", {"reason": "lifetime"}) == await stream.event()
        assert await stream.ended()


async def test_without_a_database_streams_end_and_new_ones_are_503(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream ends with a reason; a client that connects again is served once the database answers."""
    await served.shop.apply(product("mug", 1))

    async def fail(*_: object) -> None:
        raise asyncpg.CannotConnectNowError("it is starting")

    async with served.stream("mug") as stream:
        await stream.event()
        with monkeypatch.context() as patched:
            patched.setattr(watching, "read_newer", fail)
            patched.setattr(stock, "read_stock", fail)
            assert ("end", {"reason": "database_unavailable"}) == await stream.event()
            answer = await served.get("/stream?product_id=mug")
            assert (503, "1", "urn:inventory:problem:database_unavailable") == (
                answer.status_code,
                answer.headers["retry-after"],
                answer.json()["type"],
            )
    await served.nobody_watches()
    async with served.stream("mug") as stream:
        await stream.event()
        await served.shop.apply(created("o1", {"mug": 1}))
        assert 2 == (await stream.event())[1]["version"]


async def test_streams_and_products_are_bounded(served: Served) -> None:
    """One more than allowed is 503, whichever bound it meets; a client that hangs up makes room."""
    many = [f"p{number}" for number in range(WATCH_LIMITS.products)]
    async with served.stream(*many):
        assert 503 == (await served.get("/stream?product_id=another")).status_code
        async with served.stream(many[0]):
            pass
    await served.nobody_watches()
    async with asyncio.TaskGroup() as group:
        release = asyncio.Event()

        async def hold() -> None:
            async with served.stream("p"):
                await release.wait()

        for _ in range(WATCH_LIMITS.watches):
            group.create_task(hold())

        async def full() -> bool:
            return _value(metrics.WATCHES) == WATCH_LIMITS.watches

        await eventually(full, why="not all streams are open")
        answer = await served.get("/stream?product_id=p")
        release.set()
    assert (503, "urn:inventory:problem:overloaded") == (answer.status_code, answer.json()["type"])
    await served.nobody_watches()


@pytest.mark.parametrize(
    "query", ["", "?product_id=", "?product_id=%00", "?" + "&".join(["product_id=p"] * 101), "?product_id=" + "x" * 257]
)
async def test_what_cannot_be_watched_is_not_valid(served: Served, query: str) -> None:
    """No product, an impossible id, or more than a hundred."""
    assert 422 == (await served.get(f"/stream{query}")).status_code


async def test_a_process_that_stops_ends_its_streams(database_url: str) -> None:
    """A commit of another process is seen; after SIGTERM the stream says that it closes, and does not hold it up."""
    async with open_shop(database_url) as shop, api_process(database_url) as api:
        await shop.apply(product("mug", 5))
        bearer = token(rules=PROCESS_RULES)
        async with client_of(api, bearer) as client, opened(client, ("mug",), bearer) as stream:
            await stream.event()
            await shop.apply(created("o1", {"mug": 1}))
            assert 2 == (await stream.event())[1]["version"]
            api.process.terminate()
            assert ("end", {"reason": "closing"}) == await stream.event()
            assert await stream.ended()


# --- waiting for one product --------------------------------------------------------------------


async def test_a_wait_is_answered_by_the_change(served: Served) -> None:
    """The version that the caller has is waited out; `*` waits for whatever comes."""
    await served.shop.apply(product("mug", 5))
    for number, known in enumerate(['"1"', "*"], start=2):
        waiting = asyncio.create_task(served.get("/mug?wait=30", if_none_match=known))

        async def watched() -> bool:
            return _value(metrics.WATCHES) == 1

        await eventually(watched, why="the request does not wait")
        await served.shop.apply(created(f"o{number}", {"mug": 1}))
        answer = await waiting
        assert (200, f'"{number}"', number) == (answer.status_code, answer.headers["etag"], answer.json()["version"])
    await served.nobody_watches()


async def test_a_wait_without_a_change_is_304(served: Served) -> None:
    """After the time asked for, with the version that the caller has."""
    await served.shop.apply(product("mug", 5), product("tea", 5))
    started = asyncio.get_running_loop().time()
    answer = await served.get("/mug?wait=1", if_none_match='"1"')
    assert (304, '"1"', b"") == (answer.status_code, answer.headers["etag"], answer.content)
    assert asyncio.get_running_loop().time() - started > 0.9


@pytest.mark.parametrize(
    ("path", "known", "status"),
    [
        ("/mug?wait=30", '"7"', 200),
        ("/mug?wait=30", None, 200),
        ("/mug?wait=0", '"1"', 304),
        ("/ghost?wait=30", '"1"', 404),
        ("/mug?wait=31", '"1"', 422),
        ("/mug?wait=-1", '"1"', 422),
    ],
    ids=["another version", "no version", "no wait", "unknown", "too long", "negative"],
)
async def test_what_need_not_wait_is_answered_at_once(
    served: Served, path: str, known: str | None, status: int
) -> None:
    """A caller without a version, or with another, waits for nothing."""
    await served.shop.apply(product("mug", 5))
    headers = {} if known is None else {"if_none_match": known}
    async with asyncio.timeout(25):
        assert status == (await served.get(path, **headers)).status_code


async def test_a_wait_ends_with_its_client(served: Served) -> None:
    """A client that hangs up does not take up a place until the time is up."""
    await served.shop.apply(product("mug", 5))
    with pytest.raises(httpx.ReadTimeout):
        await served.client.get(
            f"{PREFIX}/mug?wait=30",
            headers={"Authorization": f"Bearer {token()}", "If-None-Match": '"1"'},
            timeout=0.5,
        )
    # Well before the 30 seconds that the request asked for.
    async with asyncio.timeout(15):
        await served.nobody_watches()


async def test_a_wait_without_a_database_is_503(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for the time to be up."""
    await served.shop.apply(product("mug", 5))

    async def fail(*_: object) -> None:
        raise asyncpg.CannotConnectNowError("it is starting")

    monkeypatch.setattr(watching, "read_newer", fail)
    async with asyncio.timeout(25):
        answer = await served.get("/mug?wait=30", if_none_match='"1"')
    assert (503, "urn:inventory:problem:database_unavailable") == (answer.status_code, answer.json()["type"])
