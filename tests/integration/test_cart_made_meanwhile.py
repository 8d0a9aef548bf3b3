"""A cart that another worker makes while its order is being decided: nobody could lock what was not there."""

from collections.abc import Iterable

import pytest

from domain.model import Product
from storage import load
from storage.database import Connection
from tests.integration.shop import Shop, cart, created, problems, product


@pytest.mark.parametrize(("wanted", "status", "reserved"), [(5, "reserved", 5), (6, "rejected", 5)])
async def test_an_order_finds_the_hold_of_a_cart_made_meanwhile(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, wanted: int, status: str, reserved: int
) -> None:
    """A cart's own hold never blocks its own order, also where it was made between two of the order's looks."""
    await shop.apply(product("mug", 5))
    lock_products = load.lock_products
    meanwhile = [cart("c", {"mug": 5}, minutes=-1)]

    async def lock_after_the_cart(connection: Connection, product_ids: Iterable[str]) -> dict[str, Product]:
        if meanwhile:
            await shop.apply(meanwhile.pop())
        return await lock_products(connection, product_ids)

    monkeypatch.setattr(load, "lock_products", lock_after_the_cart)
    await shop.apply(created("1", {"mug": wanted}, cart_id="c"))
    assert status == await shop.status("1")
    assert (5, reserved) == await shop.stock("mug")
    assert [] == await problems(shop.pool)
