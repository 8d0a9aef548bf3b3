"""Corrections over HTTP: stock and thresholds, one at a time and several at once."""

from collections.abc import AsyncIterator

import pytest

from api.auth import Role
from tests.integration.api_shop import ApiShop, kind, open_api_shop, token
from tests.integration.shop import problems, product

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


async def test_stock_is_added_subtracted_and_set(shop: ApiShop) -> None:
    """The ledger says who and why; the ETag is the new version, which the next SET must name."""
    body = {"operation": "ADD", "quantity": 5, "reason": "delivery"}
    assert kind(await shop.call("PUT", "/mug/adjust", None, body)) == (400, "idempotency_key_missing")
    added = await shop.call("PUT", "/mug/adjust", None, body, KEY)
    assert (added.status_code, added.json()["on_hand"], added.headers["etag"]) == (200, 15, '"2"')
    setting = {"operation": "SET", "quantity": 7, "reason": "count"}
    assert kind(await shop.call("PUT", "/mug/adjust", None, setting)) == (428, "precondition_required")
    for stale in ('"1"', 'W/"2"', '"x"', "2"):
        answer = await shop.call("PUT", "/mug/adjust", None, setting, {"If-Match": stale})
        assert kind(answer) == (412, "stale_version"), stale
    assert (await shop.call("PUT", "/mug/adjust", None, setting, {"If-Match": '"2"'})).json()["on_hand"] == 7
    assert (await shop.call("PUT", "/mug/adjust", None, setting, {"If-Match": "*"})).json()["on_hand"] == 7
    less = {"operation": "SUBTRACT", "quantity": 8, "reason": "broken"}
    refused = await shop.call("PUT", "/mug/adjust", None, less, {"Idempotency-Key": "k2"})
    assert kind(refused) == (409, "below_reserved")
    rows = await shop.rows("SELECT type, quantity, operator, reason FROM inventory_transactions ORDER BY sequence")
    assert rows[1:] == [("ADJUST", 5, "root", "delivery"), ("ADJUST", 8, "root", "count")]


async def test_a_product_is_created_by_add_and_set(shop: ApiShop) -> None:
    """201 with the default threshold; SUBTRACT and a named version find nothing."""
    new = {"operation": "ADD", "quantity": 5, "reason": "new"}
    created_ = await shop.call("PUT", "/tea/adjust", None, new, KEY)
    assert (created_.status_code, created_.json()["on_hand"], created_.json()["stock_status"]) == (201, 5, "low")
    zero = {"operation": "SET", "quantity": 0, "reason": "new"}
    assert (await shop.call("PUT", "/nut/adjust", None, zero, {"If-Match": "*"})).status_code == 201
    assert kind(await shop.call("PUT", "/oil/adjust", None, zero, {"If-Match": '"1"'})) == (412, "stale_version")
    less = {"operation": "SUBTRACT", "quantity": 1, "reason": "x"}
    assert kind(await shop.call("PUT", "/oil/adjust", None, less, {"Idempotency-Key": "k2"})) == (
        404,
        "unknown_product",
    )


async def test_a_threshold_judges_the_status_at_once(shop: ApiShop) -> None:
    """The edge is published with the same commit."""
    answer = await shop.call("PUT", "/mug/threshold", None, {"low_stock_threshold": 10})
    assert (answer.status_code, answer.json()["stock_status"]) == (200, "low")
    assert ("inventory.low_stock", "mug") in [
        (row[0], row[1]) for row in await shop.rows("SELECT type, aggregateid FROM outbox")
    ]
    assert kind(await shop.call("PUT", "/tea/threshold", None, {"low_stock_threshold": 1})) == (404, "unknown_product")


async def test_a_batch_of_corrections_is_all_or_each(shop: ApiShop) -> None:
    """In order, each on what the one before left; `all` changes nothing where one is refused."""
    lines = [
        {"product_id": "mug", "operation": "SUBTRACT", "quantity": 10, "reason": "r"},
        {"product_id": "mug", "operation": "SUBTRACT", "quantity": 1, "reason": "r"},
        {"product_id": "tea", "operation": "ADD", "quantity": 4, "reason": "r"},
    ]
    refused = await shop.call("POST", "/batch/adjust", None, {"mode": "all", "adjustments": lines}, KEY)
    assert kind(refused) == (409, "adjustment_refused")
    assert [result["reason"] for result in refused.json()["results"]] == [
        "adjustment_refused",
        "below_reserved",
        "adjustment_refused",
    ]
    assert await shop.stock("mug") == (10, 0)
    each = await shop.call(
        "POST", "/batch/adjust", None, {"mode": "each", "adjustments": lines}, {"Idempotency-Key": "k2"}
    )
    assert [result["status"] for result in each.json()["results"]] == ["applied", "refused", "applied"]
    assert [await shop.stock("mug"), await shop.stock("tea")] == [(0, 0), (4, 0)]


async def test_each_edge_in_a_batch_is_published_once(shop: ApiShop) -> None:
    """Out, back, out again within one request: four events with four ids."""
    lines = [
        {"product_id": "mug", "operation": operation, "quantity": 10, "reason": "r"}
        for operation in ("SUBTRACT", "ADD", "SUBTRACT")
    ]
    await shop.call("POST", "/batch/adjust", None, {"mode": "all", "adjustments": lines}, KEY)
    rows = await shop.rows("SELECT type, id FROM outbox WHERE aggregatetype <> 'inventory.reservations'")
    assert len({row[1] for row in rows}) == len(rows)
    assert [row[0] for row in rows] == [
        "inventory.low_stock",
        "inventory.stock_recovered",
        "inventory.back_in_stock",
        "inventory.low_stock",
    ]
