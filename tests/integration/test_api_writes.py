"""Writing over HTTP: carts, orders and deductions, on the engine that events go through."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from api.auth import Role
from domain import stock
from domain.commands import UpdateCart
from domain.model import Cause
from engine.execute import execute
from engine.tasks import command_task
from storage.database import open_pool
from tests.integration.api_shop import ApiShop, items, kind, open_api_shop, open_process, token
from tests.integration.shop import cart, created, paid, problems, product

ANN, BOB = token("ann"), token("bob")
SERVICE = token("till", Role.SERVICE)
KEY = {"Idempotency-Key": "k1"}


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[ApiShop]:
    """A shop with ten mugs and an API."""
    async with open_api_shop(database_url) as opened:
        await opened.apply(product("mug", 10))
        yield opened
        assert await problems(opened.pool) == []


# --- carts --------------------------------------------------------------------------------------


async def test_a_cart_holds_what_it_has_until_its_deadline(shop: ApiShop) -> None:
    """The caller's own cart, by the database's clock, as the snapshot of a cart from Kafka would."""
    before = await shop.pool.fetchval("SELECT clock_timestamp()")
    answer = await shop.call("POST", "/reserve/cart", ANN, {"items": items(mug=3), "expires_in_minutes": 20})
    held = answer.json()
    expires = datetime.fromisoformat(held.pop("expires_at"))
    assert timedelta(0) <= expires - before - timedelta(minutes=20) < timedelta(seconds=20)
    expected = {"cart_id": "user:ann", "user_id": "ann", "status": "active", "items": items(mug=3), "short": []}
    assert (answer.status_code, held) == (200, expected)
    seen = (await shop.call("GET", "/reserve/cart", ANN)).json()
    assert (seen["items"], seen["is_expired"], seen["remaining_minutes"]) == (items(mug=3), False, 20)
    assert await shop.stock("mug") == (10, 3)


async def test_a_cart_is_all_or_nothing_unless_partial(shop: ApiShop) -> None:
    """A shortage names every short line and changes nothing; `partial` takes what is there."""
    await shop.call("POST", "/reserve/cart", ANN, {"items": items(mug=2)})
    short = await shop.call("POST", "/reserve/cart", ANN, {"items": items(mug=11, tea=1)})
    assert kind(short) == (409, "insufficient_stock")
    assert short.json()["lines"] == [
        {"product_id": "tea", "requested": 1, "available": 0, "reason": "unknown_product"},
        {"product_id": "mug", "requested": 11, "available": 10, "reason": "insufficient_stock"},
    ]
    assert await shop.stock("mug") == (10, 2)
    assert await shop.rows("SELECT type FROM outbox WHERE type LIKE '%shortage'") == []
    partial = await shop.call("POST", "/reserve/cart", ANN, {"items": items(mug=11), "partial": True})
    assert (partial.status_code, partial.json()["items"]) == (200, items(mug=10))
    assert [line["available"] for line in partial.json()["short"]] == [10]


async def test_a_cart_is_emptied_prolonged_and_released(shop: ApiShop) -> None:
    """An empty list and DELETE let go; a prolonged cart never gets less time than it had."""
    await shop.call("POST", "/reserve/cart", ANN, {"items": items(mug=2), "expires_in_minutes": 60})
    shorter = await shop.call("POST", "/reserve/cart/extend", ANN, {"expires_in_minutes": 5})
    longer = await shop.call("POST", "/reserve/cart/extend", ANN, {"expires_in_minutes": 90})
    assert (await shop.call("GET", "/reserve/cart", ANN)).json()["remaining_minutes"] == 90
    assert shorter.json()["expires_at"] < longer.json()["expires_at"]
    emptied = await shop.call("POST", "/reserve/cart", ANN, {"items": []})
    assert (emptied.json()["status"], await shop.stock("mug")) == ("emptied", (10, 0))
    assert kind(await shop.call("POST", "/reserve/cart/extend", ANN, {})) == (409, "reservation_expired")
    await shop.call("POST", "/reserve/cart", ANN, {"items": items(mug=2)})
    for _ in range(2):
        assert (await shop.call("DELETE", "/reserve/cart", ANN)).json()["status"] == "emptied"
    assert await shop.stock("mug") == (10, 0)


async def test_a_cart_cannot_be_held_beyond_the_maximum(shop: ApiShop) -> None:
    """The configured maximum holds for both ways to ask."""
    for path, body in (("/reserve/cart", {"items": items(mug=1)}), ("/reserve/cart/extend", {})):
        answer = await shop.call("POST", path, ANN, {**body, "expires_in_minutes": 24 * 60 + 1})
        assert kind(answer) == (422, "invalid_request")
        assert answer.json()["errors"][0]["location"] == ["body", "expires_in_minutes"]
    assert await shop.stock("mug") == (10, 0)


async def test_a_request_is_newer_than_the_events_that_it_finds(shop: ApiShop) -> None:
    """A shop's clock that is ahead a little does not make the next request of its customer stale."""
    now = await shop.pool.fetchval("SELECT clock_timestamp()")
    ahead = Cause("shop", "e1", now + timedelta(seconds=20))
    await shop.run([command_task(UpdateCart(ahead, "c", {"mug": 4}, "ann"))])
    answer = await shop.call("POST", "/reserve/cart", ANN, {"cart_id": "c", "items": items(mug=1)})
    assert (answer.status_code, await shop.stock("mug")) == (200, (10, 1))
    order = await shop.call("POST", "/reserve/order", ANN, {"order_id": "o", "cart_id": "c", "items": items(mug=10)})
    assert (order.status_code, await shop.stock("mug")) == (201, (10, 10))


# --- orders -------------------------------------------------------------------------------------


async def test_an_order_takes_over_its_cart(shop: ApiShop) -> None:
    """201, then the same order 200, and with other lines 409; the cart's own hold never blocks it."""
    await shop.call("POST", "/reserve/cart", ANN, {"items": items(mug=10)})
    body = {"order_id": "o1", "cart_id": "user:ann", "items": items(mug=10)}
    first = await shop.call("POST", "/reserve/order", ANN, body)
    assert (first.status_code, first.json()["status"], first.json()["items"]) == (201, "reserved", items(mug=10))
    again = await shop.call("POST", "/reserve/order", ANN, body)
    assert (again.status_code, again.content) == (200, first.content)
    assert kind(await shop.call("POST", "/reserve/order", ANN, body | {"items": items(mug=9)})) == (409, "conflict")
    assert (await shop.call("GET", "/reserve/cart", ANN)).json()["status"] == "converted"
    assert await shop.stock("mug") == (10, 10)


async def test_an_order_and_its_event_are_the_same_order(shop: ApiShop) -> None:
    """Whichever comes first, the other is a duplicate; so are the payment's event and the deduction."""
    await shop.call("POST", "/reserve/order", SERVICE, {"order_id": "o1", "items": items(mug=2)})
    await shop.apply(created("o2", {"mug": 3}))
    assert await shop.apply(created("o1", {"mug": 2})) == ["duplicate"]
    again = await shop.call("POST", "/reserve/order", SERVICE, {"order_id": "o2", "items": items(mug=3)})
    assert again.status_code == 200
    await shop.call("POST", "/deduct", SERVICE, {"order_id": "o1"}, KEY)
    assert await shop.apply(paid("o1"), paid("o2")) == ["duplicate", "applied"]
    assert (
        await shop.call("POST", "/deduct", SERVICE, {"order_id": "o2"}, {"Idempotency-Key": "k2"})
    ).status_code == 200
    assert await shop.stock("mug") == (5, 0)


async def test_a_short_order_lists_every_short_line_and_sticks(shop: ApiShop) -> None:
    """409 with lines, and once rejected it stays so though stock came in."""
    body = {"order_id": "o1", "items": items(mug=11, tea=1)}
    answer = await shop.call("POST", "/reserve/order", ANN, body)
    assert kind(answer) == (409, "insufficient_stock")
    assert {line["product_id"]: line["available"] for line in answer.json()["lines"]} == {"tea": 0, "mug": 10}
    await shop.apply(product("tea", 5))
    assert kind(await shop.call("POST", "/reserve/order", ANN, body)) == (409, "order_rejected")
    assert await shop.stock("mug") == (10, 0)


async def test_an_order_is_deducted_whole_or_not_at_all(shop: ApiShop) -> None:
    """Only a reserved one; what is refused is not published, and needs a key to be asked for."""
    assert kind(await shop.call("POST", "/deduct", SERVICE, {"order_id": "o1"})) == (400, "idempotency_key_missing")
    assert kind(await shop.call("POST", "/deduct", SERVICE, {"order_id": "o1"}, KEY)) == (404, "unknown_order")
    for order_id in ("paid", "cancelled", "expired"):
        await shop.call("POST", "/reserve/order", ANN, {"order_id": order_id, "items": items(mug=2)})
    await shop.call("POST", "/reserve/order", ANN, {"order_id": "rejected", "items": items(mug=99)})
    await shop.call("DELETE", "/reserve/order/cancelled", ANN)
    await shop.pool.execute("UPDATE orders SET expires_at = '2026-01-01Z' WHERE order_id = 'expired'")
    swept = (await shop.call("POST", "/cleanup/expired-reservations")).json()
    assert (swept["expired"], swept["more"]) == (1, False)
    published = len(await shop.rows("SELECT FROM outbox"))
    expected = {
        "cancelled": (409, "order_cancelled"),
        "expired": (409, "reservation_expired"),
        "rejected": (409, "order_rejected"),
    }
    for order_id, refused in expected.items():
        headers = {"Idempotency-Key": f"k-{order_id}"}
        assert kind(await shop.call("POST", "/deduct", SERVICE, {"order_id": order_id}, headers)) == refused
    assert len(await shop.rows("SELECT FROM outbox")) == published
    done = await shop.call("POST", "/deduct", SERVICE, {"order_id": "paid"}, {"Idempotency-Key": "k-paid"})
    assert (done.status_code, done.json()["status"], done.json()["items"]) == (200, "deducted", items(mug=2))
    assert await shop.stock("mug") == (8, 0)


async def test_a_user_cancels_until_the_order_is_paid(shop: ApiShop) -> None:
    """After that it is a refund: services and admins can do it, and it restocks."""
    await shop.call("POST", "/reserve/order", ANN, {"order_id": "o1", "items": items(mug=2)})
    await shop.call("POST", "/deduct", SERVICE, {"order_id": "o1"}, KEY)
    assert kind(await shop.call("DELETE", "/reserve/order/o1", ANN)) == (409, "order_paid")
    back = await shop.call("DELETE", "/reserve/order/o1", SERVICE)
    assert (back.status_code, back.json()["status"], await shop.stock("mug")) == (200, "restocked", (10, 0))
    for _ in range(2):
        assert kind(await shop.call("DELETE", "/reserve/order/nothing", SERVICE)) == (404, "unknown_order")
    assert await shop.rows("SELECT FROM orders WHERE order_id = 'nothing'") == []


async def test_another_users_cart_and_order_do_not_exist(shop: ApiShop) -> None:
    """Neither to look at, nor to change, nor to take the hold of, nor by squatting on its name."""
    await shop.call("POST", "/reserve/cart", ANN, {"cart_id": "c", "items": items(mug=4)})
    await shop.call("POST", "/reserve/order", ANN, {"order_id": "o", "items": items(mug=1)})
    await shop.apply(cart("events", {"mug": 1}))
    attempts = [
        ("GET", "/reserve/cart?cart_id=c", None),
        ("GET", "/reserve/cart?cart_id=user:ann", None),
        ("DELETE", "/reserve/cart?cart_id=c", None),
        ("DELETE", "/reserve/cart?cart_id=events", None),
        ("POST", "/reserve/cart", {"cart_id": "c", "items": []}),
        ("POST", "/reserve/cart", {"cart_id": "user:ann", "items": items(mug=1)}),
        ("POST", "/reserve/cart/extend", {"cart_id": "c"}),
        ("POST", "/reserve/order", {"order_id": "mine", "cart_id": "c", "items": items(mug=6)}),
        ("GET", "/reserve/order/o", None),
        ("DELETE", "/reserve/order/o", None),
        ("POST", "/reserve/order", {"order_id": "o", "items": items(mug=1)}),
    ]
    for method, path, body in attempts:
        answer = await shop.call(method, path, BOB, body)
        assert kind(answer)[0] == 404, (method, path, answer.text)
    assert kind(await shop.call("POST", "/reserve/cart", BOB, {"user_id": "ann", "items": []})) == (403, "missing_role")
    assert await shop.stock("mug") == (10, 6)
    assert (await shop.call("GET", "/reserve/cart?cart_id=c", SERVICE)).json()["user_id"] == "ann"


async def test_a_service_acts_for_a_user(shop: ApiShop) -> None:
    """What it does for Ann is Ann's, and stays hers where it does not name her again."""
    await shop.call("POST", "/reserve/cart", SERVICE, {"user_id": "ann", "items": items(mug=1)})
    await shop.call("POST", "/reserve/cart", SERVICE, {"cart_id": "user:ann", "items": items(mug=2)})
    assert (await shop.call("GET", "/reserve/cart", ANN)).json()["items"] == items(mug=2)
    crossed = {"order_id": "o", "user_id": "bob", "cart_id": "user:ann", "items": items(mug=1)}
    assert kind(await shop.call("POST", "/reserve/order", SERVICE, crossed)) == (404, "unknown_cart")


# --- idempotency --------------------------------------------------------------------------------


async def test_a_repeat_gets_the_stored_answer_byte_for_byte(shop: ApiShop) -> None:
    """Successes and refusals alike, however much has changed since, also from another process."""
    add = {"operation": "ADD", "quantity": 5, "reason": "delivery"}
    first = await shop.call("PUT", "/mug/adjust", None, add, KEY)
    less = {"operation": "SUBTRACT", "quantity": 99, "reason": "broken"}
    refused = await shop.call("PUT", "/mug/adjust", None, less, {"Idempotency-Key": "k2"})
    await shop.call("PUT", "/mug/adjust", None, {**add, "quantity": 100}, {"Idempotency-Key": "k3"})
    for original, body, key in ((first, add, "k1"), (refused, less, "k2")):
        again = await shop.call("PUT", "/mug/adjust", None, body, {"Idempotency-Key": key})
        assert (again.status_code, again.content) == (original.status_code, original.content)
        assert again.headers.get("etag") == original.headers.get("etag")
    assert await shop.stock("mug") == (115, 0)


async def test_a_key_is_for_one_request_of_one_caller(shop: ApiShop) -> None:
    """Another body, path or version is 422; another caller's same key is another key."""
    add = {"operation": "ADD", "quantity": 5, "reason": "delivery"}
    await shop.apply(product("tea", 1))
    await shop.call("PUT", "/mug/adjust", None, add, KEY)
    for path, body, headers in (
        ("/mug/adjust", {**add, "quantity": 6}, {}),
        ("/tea/adjust", add, {}),
        ("/mug/adjust", add, {"If-Match": "*"}),
    ):
        answer = await shop.call("PUT", path, None, body, KEY | headers)
        assert kind(answer) == (422, "idempotency_key_reused"), path
    other = await shop.call("PUT", "/mug/adjust", token("rita", Role.ADMIN), add, KEY)
    assert (other.json()["on_hand"], await shop.stock("tea")) == (20, (1, 0))


async def test_a_repeat_while_the_first_is_under_way_is_given_its_answer(shop: ApiShop) -> None:
    """Twenty at once, over two processes: one is applied, all are answered alike."""
    add = {"operation": "ADD", "quantity": 5, "reason": "delivery"}
    url = await shop.pool.fetchval("SELECT current_database()")
    assert url
    async with open_process(shop.pool) as other:
        answers = await asyncio.gather(
            *((shop if number % 2 else other).call("PUT", "/mug/adjust", None, add, KEY) for number in range(20))
        )
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
    assert await shop.stock("mug") == (15, 0)


async def test_answers_are_kept_as_long_as_their_identity(shop: ApiShop) -> None:
    """Pruning drops an answer only after its row of the inbox."""
    from storage.answers import prune_answers  # noqa: PLC0415 - this test's subject

    await shop.call("PUT", "/mug/adjust", None, {"operation": "ADD", "quantity": 5, "reason": "r"}, KEY)
    later = await shop.pool.fetchval("SELECT now() + interval '1 hour'")
    async with shop.pool.acquire() as connection:
        assert await prune_answers(connection, later, 10) == 0
        await connection.execute("DELETE FROM inbox")
        assert await prune_answers(connection, later, 10) == 1


# --- gathering ----------------------------------------------------------------------------------


async def test_a_bug_in_one_request_fails_it_alone(shop: ApiShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the culprit of a batch gets 500; its neighbours are applied once each."""
    right = stock.adjust_stock

    def broken(state: Any, command: Any, policy: Any) -> Any:
        if command.quantity == 7:
            raise RuntimeError("a bug")
        return right(state, command, policy)

    monkeypatch.setattr(stock, "adjust_stock", broken)

    async def add(quantity: int) -> int:
        body = {"operation": "ADD", "quantity": quantity, "reason": "r"}
        answer = await shop.call("PUT", "/mug/adjust", None, body, {"Idempotency-Key": f"k{quantity}"})
        return answer.status_code

    assert await asyncio.gather(*map(add, range(1, 13))) == [200] * 6 + [500] + [200] * 5
    assert await shop.stock("mug") == (10 + sum(range(1, 13)) - 7, 0)


async def test_writes_that_arrive_together_commit_together(shop: ApiShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred requests are a few transactions."""
    sizes: list[int] = []

    async def counted(pool: Any, tasks: Any, *rest: Any, **more: Any) -> Any:
        sizes.append(len(tasks))
        return await execute(pool, tasks, *rest, **more)

    monkeypatch.setattr("api.gather.execute", counted)
    orders = ({"order_id": f"o{number}", "items": items(mug=1)} for number in range(100))
    answers = await asyncio.gather(*(shop.call("POST", "/reserve/order", ANN, order) for order in orders))
    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [409] * 90
    assert (sum(sizes), len(sizes) < 20) == (100, True)


async def test_a_full_queue_says_come_back(shop: ApiShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with Retry-After, and those that were taken are all applied."""
    release = asyncio.Event()

    async def slow(*arguments: Any, **more: Any) -> Any:
        await release.wait()
        return await execute(*arguments, **more)

    monkeypatch.setattr("api.gather.execute", slow)
    orders = ({"order_id": f"o{number}", "items": items(mug=1)} for number in range(510))
    calls = [asyncio.create_task(shop.call("POST", "/reserve/order", ANN, order)) for order in orders]
    refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    answer = next(iter(refused)).result()
    assert (kind(answer), answer.headers["retry-after"]) == ((503, "overloaded"), "1")
    release.set()
    statuses = [answer.status_code for answer in await asyncio.gather(*calls)]
    assert (statuses.count(503), statuses.count(201), statuses.count(409)) == (10, 10, 490)


async def test_a_database_that_is_gone_is_a_503_and_nothing_is_half_done(shop: ApiShop, database_url: str) -> None:
    """Retry-After at once, for reads and writes alike; the same key later is applied once."""
    assert database_url
    gone = await open_pool("postgresql://nobody@127.0.0.1:1/nowhere", 2)
    async with open_process(gone) as away:
        add = {"operation": "ADD", "quantity": 5, "reason": "delivery"}
        for method, path, body, headers in (("GET", "/mug", None, {}), ("PUT", "/mug/adjust", add, KEY)):
            answer = await away.call(method, path, None, body, headers)
            assert (kind(answer), answer.headers["retry-after"]) == ((503, "database_unavailable"), "1")
    await gone.close()
    assert (await shop.call("PUT", "/mug/adjust", None, add, KEY)).json()["on_hand"] == 15
