"""The API as processes: races against the Kafka side, a process killed mid-request, and what a socket can send."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from api.auth import Role
from tests.integration.api_process import PROCESS_RULES, ApiProcess, api_process, client_of
from tests.integration.api_shop import PREFIX, token
from tests.integration.shop import T0, Shop, created, open_shop, problems, product, task

SERVICE = token("till", Role.SERVICE, rules=PROCESS_RULES)
ADMIN = token("root", Role.ADMIN, rules=PROCESS_RULES)


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop]:
    """A shop whose books are balanced in the end."""
    async with open_shop(database_url, 8) as opened:
        yield opened
        assert await problems(opened.pool) == []


async def test_two_hundred_buyers_and_ten_units(database_url: str, shop: Shop) -> None:
    """Half over two API processes, half as events in batches: exactly ten win, and both sides win over the rounds."""
    winners = {"http": 0, "events": 0}
    # The events are of an earlier day. Their stream was read up to then, so none of their holds is due.
    await shop.read_up_to(T0)
    async with (
        api_process(database_url) as first,
        api_process(database_url) as second,
        client_of(first, SERVICE) as one,
        client_of(second, SERVICE) as other,
    ):
        for number in range(20):
            round_ = await _buy(shop, (one, other), f"mug-{number}", number)
            assert sum(round_.values()) == 10
            assert await shop.stock(f"mug-{number}") == (10, 10)
            for side, won in round_.items():
                winners[side] += won
            if number >= 2 and all(winners.values()):
                break
    assert min(winners.values()) > 0, winners


async def _buy(shop: Shop, clients: tuple[httpx.AsyncClient, ...], product_id: str, number: int) -> dict[str, int]:
    """Let 200 buyers want one unit each of ten; returns how many won on each side."""
    await shop.apply(product(product_id, 10))

    async def over_http(buyer: int) -> bool:
        body = {"order_id": f"h{number}-{buyer}", "items": [{"product_id": product_id, "quantity": 1}]}
        answer = await clients[buyer % len(clients)].post(f"{PREFIX}/reserve/order", json=body)
        assert answer.status_code in {201, 409}, answer.text
        return answer.status_code == 201

    async def as_events(batch: int) -> int:
        orders = [created(f"k{number}-{batch}-{buyer}", {product_id: 1}) for buyer in range(10)]
        verdicts = (await shop.run([task(order) for order in orders])).verdicts
        return [str(verdict.disposition) for verdict in verdicts].count("applied")

    won = await asyncio.gather(*map(over_http, range(100)), *map(as_events, range(10)))
    return {"http": sum(won[:100]), "events": sum(won[100:])}


async def test_a_process_killed_mid_request_and_a_retry_apply_once(database_url: str, shop: Shop) -> None:
    """Whatever SIGKILL met, before, in or after the commit: with its key every correction counts exactly once."""
    await shop.apply(product("mug", 0))
    body = {"operation": "ADD", "quantity": 1, "reason": "delivery"}
    url = f"{PREFIX}/mug/adjust"
    keys = [str(uuid4()) for _ in range(300)]
    unanswered: set[str] = set()
    applied_unanswered = 0
    async with api_process(database_url) as survivor, client_of(survivor, ADMIN) as safe:
        for start in range(0, len(keys), 60):
            async with api_process(database_url) as victim, client_of(victim, ADMIN) as client:
                lost = await _until_killed(victim, client, url, body, keys[start : start + 60])
            known = await shop.rows("SELECT event_id FROM inbox WHERE source = 'http:root'")
            applied_unanswered += len(lost & {row[0] for row in known})
            unanswered |= lost
        answers = await asyncio.gather(*(safe.put(url, json=body, headers={"Idempotency-Key": key}) for key in keys))
    assert {answer.status_code for answer in answers} == {200}
    assert await shop.stock("mug") == (len(keys), 0)
    # The kill did meet requests that were under way.
    assert unanswered, applied_unanswered


async def _until_killed(
    victim: ApiProcess, client: httpx.AsyncClient, url: str, body: dict[str, object], keys: list[str]
) -> set[str]:
    """Send all requests at once and kill the API when the first is answered; returns those that were not."""
    answered: set[str] = set()

    async def send(key: str) -> None:
        try:
            await client.put(url, json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            return
        answered.add(key)
        victim.kill()

    await asyncio.gather(*map(send, keys))
    return set(keys) - answered


async def test_health_and_metrics_have_a_port_of_their_own(database_url: str) -> None:
    """They need no token there, and are nothing on the API's port."""
    async with api_process(database_url) as api, client_of(api, SERVICE) as client:
        assert (await client.get(f"{PREFIX}/nothing")).status_code == 404
        assert (await client.get("/metrics")).status_code == 404
        async with httpx.AsyncClient(base_url=api.health_url) as health:
            for path in ("/livez", "/readyz"):
                assert ((await health.get(path)).status_code, (await health.get(path)).text) == (200, "ok\n")
            metrics = (await health.get("/metrics/")).text
            assert (await health.get(f"{api.url}/livez")).status_code == 401
        sample = 'inventory_http_requests_total{method="GET",route="/api/v1/inventory/{product_id}",status="404"} 1.0'
        assert sample in metrics


SMUGGLED = {
    "two lengths": b"Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}",
    "length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks spelled oddly": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Content-Length : 2\r\n\r\n{}",
    "a folded header": b"X-One: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "NUL in a header": b"X-One: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "two tokens": b"Authorization: Bearer a.b.c\r\nContent-Length: 2\r\n\r\n{}",
}


async def test_a_request_has_one_meaning_on_the_wire(database_url: str) -> None:
    """What two parsers could read differently is answered by an error, once, and no second request is seen in it."""
    head = f"POST {PREFIX}/batch HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {SERVICE}\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n"
    answers = {}
    async with api_process(database_url) as api:
        for attack, rest in SMUGGLED.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writer.write(head.encode() + rest)
            await writer.drain()
            async with asyncio.timeout(20):
                answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            answers[attack] = (answer.count(b"HTTP/1.1 "), answer[9:10])
    assert answers == dict.fromkeys(SMUGGLED, (1, b"4"))
