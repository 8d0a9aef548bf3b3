"""Due holds that stand in a batch's way expire, and no others."""

from datetime import timedelta

import pytest

from engine import execute as execute_module
from engine import working_set
from engine.execute import execute
from storage.save import PartitionProgress
from tests.integration.shop import POLICY, T0, Shop, adjusted, cart, created, paid, product, task


async def test_a_due_order_gives_way_to_who_wants_its_stock(shop: Shop) -> None:
    """A command that would be refused for lack of stock gets that of a due hold, in the same transaction."""
    await shop.apply(product("p", 5), created("old", {"p": 5}, minutes=-60))
    await shop.read_up_to(T0 - timedelta(minutes=40))
    assert ["applied"] == await shop.apply(created("new", {"p": 5}))
    assert ("expired", "reserved") == (await shop.status("old"), await shop.status("new"))
    outgoing = [
        (type_.removeprefix("inventory.reservation."), key)
        for type_, key in await shop.outgoing()
        if key in {"old", "new"}
    ]
    assert [("reserved", "old"), ("expired", "old"), ("reserved", "new")] == outgoing


async def test_any_number_of_due_holds_expires_for_an_order(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shortage that only the last of more due holds than are loaded at first covers is covered."""
    monkeypatch.setattr(working_set, "DUE_HOLDS_LOADED", (100, 150, None))
    numbers = range(100)
    await shop.apply(product("p", 200))
    await shop.apply(*(created(f"o{number}", {"p": 1}, minutes=-60) for number in numbers))
    await shop.apply(*(cart(f"c{number}", {"p": 1}, minutes=-60) for number in numbers))
    await shop.read_up_to(T0)
    result = await shop.run([task(created("new", {"p": 199}))])
    assert (["applied"], 199) == ([result.verdicts[0].disposition], result.expired)
    assert (200, 200) == await shop.stock("p")
    assert [("c99",)] == await shop.rows("SELECT cart_id FROM carts WHERE status = 'active'")


async def test_a_due_cart_gives_way_too(shop: Shop) -> None:
    """A cart's hold that is due expires first as well."""
    await shop.apply(product("p", 5), cart("old", {"p": 5}, minutes=-60))
    await shop.read_up_to(T0 - timedelta(minutes=29))
    assert ["applied"] == await shop.apply(created("new", {"p": 5}))
    assert [("expired",)] == await shop.rows("SELECT status FROM carts WHERE cart_id = 'old'")
    assert (5, 5) == await shop.stock("p")


async def test_a_hold_that_is_not_due_by_the_streams_clock_stands(shop: Shop) -> None:
    """Whatever the wall clock says, a hold stands until the low watermark has passed its deadline."""
    await shop.apply(product("p", 5), created("old", {"p": 5}, minutes=-60))
    await shop.read_up_to(T0 - timedelta(minutes=46))
    assert ["refused"] == await shop.apply(created("new", {"p": 5}), now=T0 + timedelta(days=1))
    assert ("reserved", "rejected") == (await shop.status("old"), await shop.status("new"))


async def test_a_payment_in_the_same_batch_wins_over_expiry(shop: Shop) -> None:
    """A due hold that is paid earlier in the batch does not expire in favour of a later order."""
    await shop.apply(product("p", 5), created("old", {"p": 5}, minutes=-60))
    await shop.read_up_to(T0)
    assert ["applied", "refused"] == await shop.apply(paid("old"), created("new", {"p": 5}))
    assert ("deducted", "rejected") == (await shop.status("old"), await shop.status("new"))


async def test_a_hold_made_and_due_in_the_same_batch_gives_way(shop: Shop) -> None:
    """A late order whose hold is due from the start gives way in its own batch as it would in a later one."""
    await shop.apply(product("p", 5))
    await shop.read_up_to(T0)
    await shop.apply(created("old", {"p": 5}, minutes=-60), created("new", {"p": 5}))
    assert ("expired", "reserved") == (await shop.status("old"), await shop.status("new"))


async def test_a_hold_that_took_an_expired_ones_place_gives_way_in_its_turn(shop: Shop) -> None:
    """The second shortage of a product in one batch is handled as in a batch of its own."""
    await shop.apply(product("p", 3))
    await shop.read_up_to(T0)
    events = [created("old", {"p": 1}, -60), created("new", {"p": 3}, -60), paid("old", -30)]
    assert ["applied"] * 3 == await shop.apply(*events)
    assert ("deducted", "expired") == (await shop.status("old"), await shop.status("new"))
    assert (2, 0) == await shop.stock("p")


async def test_a_hold_seen_for_one_product_gives_way_on_the_next(shop: Shop) -> None:
    """A product that runs short only because a hold on another product gave way is looked up as well."""
    await shop.apply(product("p", 3), product("q", 3))
    await shop.read_up_to(T0)
    due = [created("on-p", {"p": 1}, -60), created("on-q", {"q": 1}, -60)]
    await shop.apply(*due, created("large", {"p": 3, "q": 2}, 1), cart("c", {"q": 1}, minutes=2))
    assert ("expired", "expired", "reserved") == tuple([await shop.status(name) for name in ("on-p", "on-q", "large")])
    assert ((3, 3), (3, 3)) == (await shop.stock("p"), await shop.stock("q"))


async def test_expiries_that_go_on_uncovering_shortages_come_to_an_end(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch in which each dropped hold makes the next order short is applied in halves rather than dead-lettered."""
    monkeypatch.setattr(execute_module, "MAX_RESTARTS", 2)
    await shop.apply(product("a", 1), product("b", 1))
    await shop.apply(created("due-a", {"a": 1}, minutes=-60))
    await shop.apply(product("c", 1), created("due-b", {"c": 1}, minutes=-60))
    await shop.apply(adjusted("b", "SET", 2), cart("due-cart", {"b": 1}, minutes=-60))
    await shop.read_up_to(T0)
    outcomes = await shop.apply(created("first", {"a": 1, "b": 1}), created("second", {"b": 1}))
    assert ["applied", "applied"] == outcomes
    assert [("expired",)] == await shop.rows("SELECT status FROM carts")


@pytest.mark.parametrize("names", [["o"], ["o", "bad"]], ids=["applied whole", "applied in halves"])
async def test_a_partition_that_a_batch_registers_counts_as_unread(shop: Shop, names: list[str]) -> None:
    """The first batch of a stream expires nothing: it brings the first rows, and payments may wait behind it."""
    await shop.rows("DELETE FROM stream_progress RETURNING 1")
    await shop.pool.execute("ALTER TABLE orders ADD CONSTRAINT ck_test CHECK (order_id <> 'bad')")
    batch = [product("p", 1), created("due", {"p": 1}, -60), *(created(name, {"p": 1}) for name in names)]
    progress = [PartitionProgress("order.created", 0, 1, T0)]
    await execute(shop.pool, [task(one) for one in batch], POLICY, T0, progress=progress)
    assert ["reserved", "rejected"] == [await shop.status("due"), await shop.status("o")]
    await shop.apply(created("later", {"p": 1}))
    assert ["expired", "reserved"] == [await shop.status("due"), await shop.status("later")]
