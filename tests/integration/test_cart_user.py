"""A cart keeps its user from its first event to its last outcome, through the tables."""

from datetime import timedelta

from tests.integration.shop import POLICY, T0, Shop, cart, created, product
from workers.sweeper import Sweeper

_USER = "SELECT user_id FROM carts WHERE cart_id = 'c'"


async def test_a_carts_user_is_stored_and_changes_with_its_snapshots(shop: Shop) -> None:
    """A new cart and an updated one have the user that their newest snapshot names; readers of the view see it."""
    await shop.apply(product("p", 5), cart("c", {"p": 1}, user_id="first"))
    assert [("first",)] == await shop.rows(_USER)
    await shop.apply(cart("c", {"p": 2}, minutes=1, user_id="second"))
    assert [("second",)] == await shop.rows(_USER)
    assert [("second",)] == await shop.rows("SELECT user_id FROM cart_reservations")


async def test_a_shortage_names_the_user(shop: Shop) -> None:
    """The outcome that reports a shortage carries the cart's user."""
    await shop.apply(product("p", 1), cart("c", {"p": 3}, user_id="u"))
    shortage = "SELECT payload::json ->> 'user_id' FROM outbox WHERE type LIKE '%cart_shortage'"
    assert [("u",)] == await shop.rows(shortage)


async def test_an_expired_cart_keeps_its_user(shop: Shop) -> None:
    """Its row and the outcome that reports the expiry name the user, loaded from the table."""
    await shop.apply(product("p", 5), cart("c", {"p": 1}, user_id="u"))
    await shop.read_up_to(T0 + timedelta(hours=1))
    assert 1 == (await Sweeper(shop.pool, POLICY, 1, lambda: T0, lambda _report: None).run_once()).expired
    assert [("u",)] == await shop.rows(_USER)
    expired = "SELECT payload::json ->> 'user_id' FROM outbox WHERE type LIKE '%expired'"
    assert [("u",)] == await shop.rows(expired)


async def test_a_converted_cart_keeps_its_user(shop: Shop) -> None:
    """The order takes over the hold, and the cart's row still names the user."""
    await shop.apply(product("p", 5), cart("c", {"p": 1}, user_id="u"))
    await shop.apply(created("o", {"p": 1}, minutes=1, cart_id="c", user_id="somebody else"))
    assert [("u",)] == await shop.rows(_USER)
