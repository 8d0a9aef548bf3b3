"""The API as processes: races against the Kafka side, a process killed mid-request, and what a socket can send."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from uuid import uuid4

import httpx
import pytest

from api.auth import Role
from dev.servers.kafka import Broker
from tests.integration.api_process import PROCESS_RULES, ApiProcess, api_process, client_of
from tests.integration.api_shop import PREFIX, token
from tests.integration.program import running
from tests.integration.shop import Shop, created, open_shop, problems, product
from tests.integration.stream import Producer, dated, eventually, now_plus, producing, settings_for

MAX_ROUNDS = 30
SERVICE = token("till", Role.SERVICE, rules=PROCESS_RULES)
ADMIN = token("root", Role.ADMIN, rules=PROCESS_RULES)


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop]:
    """A shop whose books are balanced in the end."""
    async with open_shop(database_url, 8) as opened:
        yield opened
        assert await problems(opened.pool) == []


async def test_two_hundred_buyers_and_ten_units(kafka: Broker, topics: str, database_url: str, shop: Shop) -> None:
    """Half over two API processes, half over Kafka and a worker: exactly ten win, and both ways win over the rounds.

    To keep the race even, the way that won a round begins the next one a little later.
    """
    winners: Counter[str] = Counter()
    delays = {"http": 0.0, "kafka": 0.0}
    async with (
        running(settings_for(kafka.bootstrap_servers, topics, database_url)) as worker,
        producing(kafka.bootstrap_servers, topics) as producer,
        api_process(database_url) as first,
        api_process(database_url) as second,
        client_of(first, SERVICE) as one,
        client_of(second, SERVICE) as other,
    ):
        await worker.port()
        for number in range(MAX_ROUNDS):
            await _buy(shop, (one, other), producer, number, delays)
            won = Counter(
                {
                    way: await shop.pool.fetchval(
                        "SELECT count(*) FROM orders WHERE status = 'reserved' AND order_id LIKE $1",
                        f"{way}-{number}-%",
                    )
                    for way in delays
                }
            )
            assert won.total() == 10, won
            assert await shop.stock(f"mug-{number}") == (10, 10)
            winners += won
            if number >= 2 and winners.keys() == delays.keys():
                break
            for way, delay in delays.items():
                delays[way] = delay + 0.01 if won[way] > 5 else max(delay - 0.01, 0.0)
    assert winners.keys() == delays.keys(), winners


async def _buy(
    shop: Shop, clients: tuple[httpx.AsyncClient, ...], producer: Producer, number: int, delays: Mapping[str, float]
) -> None:
    """Let 200 buyers want one unit each of ten; returns when every one of them was answered."""
    product_id = f"mug-{number}"
    await shop.apply(product(product_id, 10))

    async def over_http(buyer: int) -> None:
        await asyncio.sleep(delays["http"])
        body = {"order_id": f"http-{number}-{buyer}", "items": [{"product_id": product_id, "quantity": 1}]}
        answer = await clients[buyer % len(clients)].post(f"{PREFIX}/reserve/order", json=body)
        assert answer.status_code in {201, 409}, answer.text

    async def over_kafka() -> None:
        await asyncio.sleep(delays["kafka"])
        orders = dated((created(f"kafka-{number}-{buyer}", {product_id: 1}) for buyer in range(100)), now_plus(0))
        await asyncio.gather(*map(producer.send, orders))

    async def answered() -> bool:
        statement = "SELECT count(*) FROM orders WHERE order_id LIKE $1 AND status IN ('reserved', 'rejected')"
        return bool(await shop.pool.fetchval(statement, f"%-{number}-%") == 200)

    await asyncio.gather(over_kafka(), *map(over_http, range(100)))
    await eventually(answered)


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
