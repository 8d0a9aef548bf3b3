"""Reading over HTTP: one product, many, all, those that are low, and the ledger."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.auth import Role
from api.routes import transactions
from storage.cache import Cache
from tests.integration.api_shop import ApiShop, open_api_shop, token
from tests.integration.shop import adjusted, created, product

USER, SERVICE = token(), token("till", Role.SERVICE)


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[ApiShop]:
    """An empty shop with an API."""
    async with open_api_shop(database_url) as opened:
        yield opened


async def test_a_product_is_shown_with_all_that_is_known_of_it(shop: ApiShop) -> None:
    """Every field of the contract is there, and the ETag is the version."""
    await shop.apply(product("mug", 12, 10), created("o1", {"mug": 4}))
    answer = await shop.call("GET", "/mug", USER)
    shown = answer.json()
    assert shown.pop("updated_at") == (
        await shop.pool.fetchval("SELECT updated_at FROM inventory")
    ).isoformat().replace("+00:00", "Z")
    assert (answer.status_code, answer.headers["etag"], shown) == (
        200,
        '"2"',
        {
            "product_id": "mug",
            "on_hand": 12,
            "reserved": 4,
            "available": 8,
            "low_stock_threshold": 10,
            "stock_status": "low",
            "is_low_stock": True,
            "is_out_of_stock": False,
            "version": 2,
        },
    )


async def test_an_unknown_product_is_a_problem(shop: ApiShop) -> None:
    """404 with the refusal's reason as its type."""
    answer = await shop.call("GET", "/nothing", USER)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json() == {
        "type": "urn:inventory:problem:unknown_product",
        "title": "There is no such product",
        "status": 404,
        "detail": "There is no product nothing.",
    }


@pytest.mark.parametrize(("tag", "status"), [('"1"', 304), ('W/"1"', 304), ('"9", "1"', 304), ("*", 304), ('"2"', 200)])
async def test_a_version_that_the_caller_has_is_not_sent_again(shop: ApiShop, tag: str, status: int) -> None:
    """If-None-Match is compared with the version, weakly."""
    await shop.apply(product("mug", 1))
    answer = await shop.call("GET", "/mug", USER, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.headers["etag"], bool(answer.content)) == (status, '"1"', status == 200)


@pytest.mark.parametrize(
    ("product_id", "path"),
    [("a/b", "/a%2Fb"), ("50%2F", "/50%252F"), ("low-stock", "/low%2Dstock"), ("tasse blå", "/tasse%20bl%C3%A5")],
)
async def test_any_id_can_be_named_in_a_path(shop: ApiShop, product_id: str, path: str) -> None:
    """A slash is %2F, a percent sign %25, and what a literal path would take has a letter encoded."""
    await shop.apply(product(product_id, 3))
    answer = await shop.call("GET", path, USER)
    assert (answer.status_code, answer.json().get("product_id")) == (200, product_id)


@pytest.mark.parametrize("path", ["/%00", "/%FF", "/%ED%A0%80", "/" + "x" * 257, "/a%00b/transactions"])
async def test_what_cannot_be_an_id_is_not_valid(shop: ApiShop, path: str) -> None:
    """NUL, broken UTF-8, surrogates and lengths that no id has never reach the database."""
    answer = await shop.call("GET", path)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:inventory:problem:invalid_request")
    assert answer.json()["errors"][0]["location"] == ["path", "product_id"]


async def test_many_products_at_once_name_the_unknown(shop: ApiShop) -> None:
    """The known come in the order asked for, each once; the rest is named."""
    await shop.apply(product("a", 1), product("b", 2))
    answer = await shop.call("POST", "/batch", USER, {"product_ids": ["b", "x", "a", "b", "y"]})
    assert [level["product_id"] for level in answer.json()["products"]] == ["b", "a"]
    assert answer.json()["unknown"] == ["x", "y"]


@pytest.mark.parametrize(
    ("body", "location"),
    [
        (b"{", ["body", 1]),
        (b'{"product_ids": ["a"], "product_ids": ["b"]}', ["body", 0]),
        (b'{"product_ids": [NaN]}', ["body", 0]),
        (b"[" * 100_000, ["body", 0]),
        (b'{"product_ids": ["\\ud800"]}', ["body", "product_ids", 0]),
        (b'{"product_ids": ["a\\u0000"]}', ["body", "product_ids", 0]),
        (b'{"product_ids": [7]}', ["body", "product_ids", 0]),
        (b'{"product_ids": []}', ["body", "product_ids"]),
        (b'{"product_ids": ["a"], "\\ud800": 1}', ["body"]),
        (b"\xff\xfe{\x00}\x00", ["body", 0]),
    ],
)
async def test_a_body_has_one_meaning_or_none(shop: ApiShop, body: bytes, location: list[object]) -> None:
    """Broken JSON, repeated keys, wrong types and impossible text are all the one shape of 422."""
    assert shop.client is not None
    answer = await shop.client.post(
        "/api/v1/inventory/batch",
        content=body,
        headers={"Authorization": f"Bearer {USER}", "Content-Type": "application/json"},
    )
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "urn:inventory:problem:invalid_request")
    assert [error["location"] for error in problem["errors"]] == [location]


async def test_a_body_beyond_the_limit_is_refused(shop: ApiShop) -> None:
    """1 MiB and no more, whether its length is announced or not."""
    assert shop.client is not None
    headers = {"Authorization": f"Bearer {USER}", "Content-Type": "application/json"}

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 65_536

    for content in (b" " * (1024 * 1024 + 1), endless()):
        answer = await shop.client.post("/api/v1/inventory/batch", content=content, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (413, "urn:inventory:problem:request_too_large")


async def test_lists_are_read_page_by_page(shop: ApiShop) -> None:
    """Every product once, in the order of the ids, however small the pages; the last has no cursor."""
    await shop.apply(*(product(f"p{number}", number % 3, 1) for number in range(7)))
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await shop.call("GET", "", SERVICE, params=params)).json()
        seen += [level["product_id"] for level in page["products"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert (seen, pages) == ([f"p{number}" for number in range(7)], 3)


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("", "ok", ["p2", "p5"]),
        ("", "low", ["p1", "p4"]),
        ("/low-stock", None, ["p0", "p1", "p3", "p4"]),
        ("/low-stock", "out", ["p0", "p3"]),
    ],
)
async def test_lists_can_be_narrowed_to_a_status(
    shop: ApiShop, path: str, status: str | None, expected: list[str]
) -> None:
    """The filter holds on every page."""
    await shop.apply(*(product(f"p{number}", number % 3, 1) for number in range(6)))
    seen: list[str] = []
    cursor = None
    for _ in range(len(expected)):
        params = {"limit": 1} | ({"cursor": cursor} if cursor else {}) | ({"status": status} if status else {})
        page = (await shop.call("GET", path, SERVICE, params=params)).json()
        seen += [level["product_id"] for level in page["products"]]
        cursor = page["next_cursor"]
    assert (seen, cursor) == (expected, None)


async def test_low_stock_longer_than_the_cache_keeps_is_still_paged(
    shop: ApiShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound of the cached list pages come from PostgreSQL."""
    await shop.apply(*(product(f"p{number}", 0, 1) for number in range(5)))
    monkeypatch.setattr("api.routes.low_stock.MAX_LOW_STOCK", 2)
    first = (await shop.call("GET", "/low-stock", USER, params={"limit": 4})).json()
    second = (await shop.call("GET", "/low-stock", USER, params={"limit": 4, "cursor": first["next_cursor"]})).json()
    assert [len(first["products"]), [level["product_id"] for level in second["products"]]] == [4, ["p4"]]


async def test_a_cursor_belongs_to_its_list_and_filters(shop: ApiShop) -> None:
    """A cursor that was changed, or comes from another list or filter, is refused and names no row."""
    await shop.apply(*(product(f"p{number}", 0, 1) for number in range(3)))
    cursor = (await shop.call("GET", "", SERVICE, params={"limit": 1})).json()["next_cursor"]
    changed = [
        cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :] for place in range(len(cursor))
    ]
    others = [("", {"cursor": tampered}) for tampered in [*changed, cursor + "A", cursor + "=", "é", ""]]
    others += [("", {"cursor": cursor, "status": "out"}), ("/low-stock", {"cursor": cursor})]
    for path, params in others:
        answer = await shop.call("GET", path, SERVICE, params=params)
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:inventory:problem:invalid_cursor"), params
    assert (await shop.call("GET", "", SERVICE, params={"cursor": cursor})).status_code == 200


async def test_the_ledger_is_listed_newest_first(shop: ApiShop) -> None:
    """Pages follow each other without a hole, and each filter leaves out what it names."""
    await shop.apply(
        product("mug", 9),
        created("o1", {"mug": 2}),
        adjusted("mug", "ADD", 5, "a1", operator="ann"),
        adjusted("mug", "SUBTRACT", 1, "a2", operator="bob"),
    )
    first = (await shop.call("GET", "/mug/transactions", params={"limit": 3})).json()
    second = (await shop.call("GET", "/mug/transactions", params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [entry["sequence"] for entry in first["transactions"] + second["transactions"]] == [4, 3, 2, 1]
    assert second["next_cursor"] is None
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({"type": "ADJUST"}, [4, 3]),
        ({"type": ["IN", "RESERVE"]}, [2, 1]),
        ({"reference_type": "ORDER"}, [2]),
        ({"reference_id": "o1"}, [2]),
        ({"operator": "ann"}, [3]),
        ({"since": "2026-03-01T12:00:00Z"}, [4, 3, 2]),
        ({"until": "2026-03-01T12:00:00Z"}, [1]),
    ]
    for params, expected in cases:
        answer = await shop.call("GET", "/mug/transactions", params=params)
        assert [entry["sequence"] for entry in answer.json()["transactions"]] == expected, params
    assert (await shop.call("GET", "/nothing/transactions")).status_code == 404


@pytest.mark.parametrize("params", [{"since": "0001-01-01T00:00:00+14:00"}, {"until": "9999-12-31T23:59:59-14:00"}])
async def test_a_time_outside_the_calendar_is_the_callers_mistake(shop: ApiShop, params: dict[str, str]) -> None:
    """It has an offset and four digits of a year, and in UTC it does not exist."""
    await shop.apply(product("mug", 1))
    answer = await shop.call("GET", "/mug/transactions", params=params)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"location": ["query", *params], "message": "must be within the years 1 to 9999 in UTC"}
    ]


async def test_a_bug_is_a_problem_as_well(
    shop: ApiShop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 has the form of all problems, says nothing of the bug, and the log has the traceback and the request's id."""

    async def fail(*_arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(transactions, "ledger_page", fail)
    answer = await shop.call("GET", "/mug/transactions", headers={"X-Request-Id": "request-7"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.headers["x-request-id"] == "request-7"
    assert answer.json() == {
        "type": "urn:inventory:problem:internal_error",
        "title": "The server failed",
        "status": 500,
        "detail": "Something went wrong on our side.",
    }
    [logged] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert logged.exc_info is not None
    assert logged.exc_info[0] is ZeroDivisionError


async def test_answers_come_from_redis_and_fresh_ones_from_postgresql(database_url: str, redis_url: str) -> None:
    """Redis answers with what it has until that is refreshed; `fresh` never asks it."""
    cache = Cache(redis_url)
    try:
        async with open_api_shop(database_url, cache) as shop:
            await shop.apply(product("mug", 5))
            assert (await shop.call("GET", "/mug", USER)).json()["on_hand"] == 5
            # Behind the back of everything that writes to Redis.
            await shop.pool.execute("UPDATE inventory SET on_hand = 7")
            assert (await shop.call("GET", "/mug", USER)).json()["on_hand"] == 5
            assert (await shop.call("GET", "/mug", USER, params={"fresh": "true"})).json()["on_hand"] == 7
    finally:
        await cache.close()


async def test_a_level_that_redis_has_without_its_time_is_read_again(database_url: str, redis_url: str) -> None:
    """What a commit left in Redis says when it was only after PostgreSQL was asked."""
    from datetime import UTC, datetime  # noqa: PLC0415 - this test's only clock

    from domain.model import StockStatus  # noqa: PLC0415 - same
    from storage.cache import Batch  # noqa: PLC0415 - same
    from storage.stock import StockLevel  # noqa: PLC0415 - same

    cache = Cache(redis_url)
    try:
        async with open_api_shop(database_url, cache) as shop:
            await shop.apply(product("mug", 5, 9))
            await cache.write(Batch(stock=[StockLevel("mug", 5, 0, 5, 9, StockStatus.LOW, 1)]), datetime.now(UTC))
            for path in ("/mug", "/low-stock"):
                answer = (await shop.call("GET", path, USER)).json()
                shown = answer["products"][0] if "products" in answer else answer
                assert shown["updated_at"] is not None
    finally:
        await cache.close()
