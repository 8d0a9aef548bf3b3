"""Who may do what: every route with every kind of token, each with the status that it must have."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from fastapi.routing import APIRoute

from api.app import ROUTERS
from api.auth import Role, TokenRules
from api.values import PREFIX
from tests.integration import api_shop
from tests.integration.api_shop import RULES, ApiShop, open_api_shop, token
from tests.integration.shop import product

# ann is a user, and the owner of what each request names; bob is another user.
TOKENS = {
    "nobody": "",
    "expired": token("ann", *Role, seconds=-60),
    "wrong audience": token("ann", *Role, rules=TokenRules(RULES.issuer, "billing")),
    "no role": token("ann", rules=TokenRules(RULES.issuer, RULES.audience, "no_roles_here")),
    "user": token("ann"),
    "other user": token("bob"),
    "service": token("till", Role.SERVICE),
    "admin": token("root", Role.ADMIN),
}


class Call(NamedTuple):
    """A request that is right for its route, and the statuses for user, other user, service and admin."""

    path: str
    body: Any
    statuses: tuple[int, int, int, int]
    headers: Mapping[str, str] = MappingProxyType({})


LIMITS = replace(api_shop.LIMITS, stream_seconds=0.5)
KEY = {"Idempotency-Key": "matrix"}
LINES = [{"product_id": "mug", "quantity": 1}]
ADJUSTMENT = {"operation": "ADD", "quantity": 1, "reason": "count"}

MATRIX: dict[tuple[str, str], Call] = {
    ("GET", ""): Call("", None, (403, 403, 200, 200)),
    ("POST", "/batch"): Call("/batch", {"product_ids": ["mug"]}, (200, 200, 200, 200)),
    ("GET", "/low-stock"): Call("/low-stock", None, (200, 200, 200, 200)),
    # Streams last half a second here.
    ("GET", "/stream"): Call("/stream?product_id=mug", None, (200, 200, 200, 200)),
    ("POST", "/reserve/cart"): Call("/reserve/cart", {"cart_id": "c", "items": LINES}, (200, 404, 200, 200)),
    ("GET", "/reserve/cart"): Call("/reserve/cart?cart_id=c", None, (200, 404, 200, 200)),
    ("DELETE", "/reserve/cart"): Call("/reserve/cart?cart_id=c", None, (200, 404, 200, 200)),
    ("POST", "/reserve/cart/extend"): Call("/reserve/cart/extend", {"cart_id": "c"}, (200, 404, 200, 200)),
    # The service and the admin name another user than the order has, but the order is the same.
    ("POST", "/reserve/order"): Call("/reserve/order", {"order_id": "o", "items": LINES}, (200, 404, 200, 200)),
    ("GET", "/reserve/order/{order_id}"): Call("/reserve/order/o", None, (200, 404, 200, 200)),
    ("DELETE", "/reserve/order/{order_id}"): Call("/reserve/order/o", None, (200, 404, 200, 200)),
    ("POST", "/deduct"): Call("/deduct", {"order_id": "o"}, (403, 403, 200, 200), KEY),
    ("POST", "/cleanup/expired-reservations"): Call("/cleanup/expired-reservations", None, (403, 403, 403, 200)),
    ("PUT", "/{product_id}/adjust"): Call("/mug/adjust", ADJUSTMENT, (403, 403, 403, 200), KEY),
    ("PUT", "/{product_id}/threshold"): Call("/mug/threshold", {"low_stock_threshold": 3}, (403, 403, 403, 200)),
    ("POST", "/batch/adjust"): Call(
        "/batch/adjust",
        {"mode": "all", "adjustments": [{"product_id": "mug", **ADJUSTMENT}]},
        (403, 403, 403, 200),
        KEY,
    ),
    ("GET", "/{product_id}/transactions"): Call("/mug/transactions", None, (403, 403, 403, 200)),
    ("GET", "/{product_id}"): Call("/mug", None, (200, 200, 200, 200)),
}
ROUTES = [
    (method, route.path.removeprefix(PREFIX))
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods or ())
]


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[ApiShop]:
    """A shop in which ann has a cart and an order."""
    async with open_api_shop(database_url, limits=LIMITS) as opened:
        await opened.apply(product("mug", 10))
        for path, body in (
            ("/reserve/cart", {"cart_id": "c", "items": LINES}),
            ("/reserve/order", {"order_id": "o", "items": LINES}),
        ):
            assert (await opened.call("POST", path, TOKENS["user"], body)).is_success
        yield opened


def test_every_route_has_its_row() -> None:
    """A route without a row is one that nobody has thought about."""
    assert sorted(ROUTES) == sorted(MATRIX)


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
async def test_each_caller_gets_the_status_that_it_must(shop: ApiShop, route: tuple[str, str]) -> None:
    """No token, a bad one, a user, another user, a service, an admin: changes are made by those who may only."""
    call = MATRIX[route]
    refused = dict.fromkeys(("nobody", "expired", "wrong audience"), 401) | {"no role": 403}
    allowed = dict(zip(("user", "other user", "service", "admin"), call.statuses, strict=True))
    found = {}
    before = await _books(shop)
    for caller, status in (refused | allowed).items():
        answer = await shop.call(route[0], call.path, TOKENS[caller], call.body, call.headers)
        found[caller] = answer.status_code
        if status == 401:
            assert answer.headers["www-authenticate"].startswith('Bearer realm="inventory"')
        if status in {401, 403}:
            assert await _books(shop) == before, caller
    assert found == refused | allowed


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
async def test_a_token_is_asked_for_before_anything_else(shop: ApiShop, route: tuple[str, str]) -> None:
    """Without one, a broken request, an unknown path and a right one look the same."""
    for path in (MATRIX[route].path, MATRIX[route].path + "/nothing/there"):
        answer = await shop.call(route[0], path, "", "no object")
        assert (answer.status_code, answer.json()["type"]) == (401, "urn:inventory:problem:unauthenticated")


async def _books(shop: ApiShop) -> list[tuple[Any, ...]]:
    """Return all that a request could have changed."""
    return [
        *await shop.rows("SELECT product_id, on_hand, reserved, version FROM inventory"),
        *await shop.rows("SELECT order_id, version FROM orders"),
        *await shop.rows("SELECT cart_id, version FROM carts"),
        *await shop.rows("SELECT count(*) FROM inbox"),
    ]
