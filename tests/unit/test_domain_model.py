"""The rules against an independent oracle, step by step."""

from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain.model import LatePaymentPolicy
from tests.unit.strategies import CARTS, PRODUCTS, carts, items, known_lines, lines, minutes, orders
from tests.unit.two_shops import TwoShops


class ShopMachine(RuleBasedStateMachine):
    """Anything that can happen in a small shop with scarce stock, each step compared with the oracle."""

    late_payment = LatePaymentPolicy.RESERVE_AGAIN

    def __init__(self) -> None:
        super().__init__()
        self.shops = TwoShops(self.late_payment)

    @initialize(stock=st.lists(st.integers(0, 20), min_size=2, max_size=3))
    def open_shop(self, stock: list[int]) -> None:
        """Start with two or three products, so that most of what follows can succeed."""
        for product_id, quantity in zip(PRODUCTS, stock, strict=False):
            self.shops.publish("product.created", 0, product_id=product_id, initial_quantity=quantity)

    @rule(product_id=st.sampled_from(PRODUCTS), quantity=st.integers(0, 12), threshold=st.none() | st.integers(0, 5))
    def make_product(self, product_id: str, quantity: int, threshold: int | None) -> None:
        """Create a product, or repeat its creation."""
        self.shops.publish(
            "product.created", 0, product_id=product_id, initial_quantity=quantity, low_stock_threshold=threshold
        )

    @rule(
        product_id=st.sampled_from(PRODUCTS),
        change=st.none() | st.tuples(st.sampled_from(("ADD", "SUBTRACT", "SET")), st.integers(0, 8)),
        threshold=st.none() | st.integers(0, 8),
        expected_version=st.none() | st.integers(1, 6),
    )
    def adjust(
        self, product_id: str, change: tuple[str, int] | None, threshold: int | None, expected_version: int | None
    ) -> None:
        """Correct stock, threshold or both."""
        operation, quantity = change or (None, None)
        self.shops.publish(
            "inventory.adjustment",
            0,
            product_id=product_id,
            operation=operation,
            quantity=quantity,
            low_stock_threshold=threshold,
            expected_version=expected_version,
        )

    @rule(
        cart_id=carts,
        asked=st.just({}) | lines,
        version=st.none() | st.integers(1, 5),
        minute=minutes,
        overdue=st.booleans(),
    )
    def update_cart(
        self, cart_id: str, asked: dict[str, int], version: int | None, minute: int, *, overdue: bool
    ) -> None:
        """Publish a cart's snapshot, newer or older than the last."""
        self.shops.publish(
            "cart.updated", minute, overdue=overdue, cart_id=cart_id, version=version, items=items(asked)
        )

    @rule(
        order_id=orders,
        cart_id=st.none() | carts,
        asked=known_lines | lines,
        minute=minutes,
        overdue=st.booleans(),
    )
    def create_order(
        self, order_id: str, cart_id: str | None, asked: dict[str, int], minute: int, *, overdue: bool
    ) -> None:
        """Place an order, with or without a cart."""
        self.shops.publish(
            "order.created", minute, overdue=overdue, order_id=order_id, cart_id=cart_id, items=items(asked)
        )

    @rule(
        order_id=orders, minute=minutes, overdue=st.booleans(), payment=st.none() | st.sampled_from(("y1", "y2", "y3"))
    )
    def pay(self, order_id: str, minute: int, *, overdue: bool, payment: str | None = None) -> None:
        """Pay an order in whatever state, perhaps a second time."""
        self.shops.publish("payment.succeeded", minute, overdue=overdue, order_id=order_id, payment_id=payment)

    @rule(order_id=orders)
    def cancel(self, order_id: str) -> None:
        """Cancel a whole order in whatever state."""
        self.shops.publish("order.cancelled", 0, order_id=order_id)

    @rule(order_id=orders, asked=known_lines, name=st.none() | st.sampled_from(("n1", "n2")))
    def cancel_lines(self, order_id: str, asked: dict[str, int], name: str | None = None) -> None:
        """Cancel some units, whether they were ordered or not."""
        self.shops.publish("order.cancelled", 0, order_id=order_id, cancellation_id=name, items=items(asked))

    @rule(
        order_id=orders,
        refund=st.integers(1, 5),
        asked=st.just({}) | known_lines,
        restock=st.none() | st.booleans(),
        returned=st.none() | st.booleans(),
    )
    def refund(
        self, order_id: str, refund: int, asked: dict[str, int], *, restock: bool | None, returned: bool | None = None
    ) -> None:
        """Refund some units in whatever state."""
        self.shops.publish(
            "payment.refunded",
            0,
            order_id=order_id,
            refund_id=f"r{refund}",
            items=items(asked),
            restock=restock,
            returned=returned,
        )

    @precondition(lambda self: self.shops.history)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Deliver an earlier event again."""
        self.shops.take(data.draw(st.sampled_from(self.shops.history)), None)

    @precondition(lambda self: self.shops.history)
    @rule(order_id=orders, minute=st.integers(0, 90))
    def expire_order(self, order_id: str, minute: int) -> None:
        """Sweep one order before some time."""
        self.shops.expire_order(order_id, minute)

    @precondition(lambda self: self.shops.history)
    @rule(cart_id=carts, minute=st.integers(0, 90))
    def expire_cart(self, cart_id: str, minute: int) -> None:
        """Sweep one cart before some time."""
        self.shops.expire_cart(cart_id, minute)

    @precondition(lambda self: self.shops.history)
    @rule(data=st.data(), order_id=orders)
    def forget(self, data: st.DataObject, order_id: str) -> None:
        """Let a waiting fact's deadline pass."""
        self.shops.forget(order_id, data.draw(st.sampled_from(self.shops.history)))

    @invariant()
    def both_shops_agree(self) -> None:
        """Stock, lines, holds and ledger are possible, and are the oracle's."""
        self.shops.check()


class ShortfallShopMachine(ShopMachine):
    """The same shop, where a late payment is never served."""

    late_payment = LatePaymentPolicy.SHORTFALL


_machine = settings(max_examples=80, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
TestShop = ShopMachine.TestCase
TestShop.settings = _machine
TestShortfallShop = ShortfallShopMachine.TestCase
TestShortfallShop.settings = settings(_machine, max_examples=40)


@pytest.mark.parametrize("seed", range(60))
def test_a_long_day_agrees_with_the_oracle_at_every_step(seed: int) -> None:
    """A hundred likely events on few orders go deeper than the machine's short runs; the seed repeats a failure."""
    dice = Random(seed)  # noqa: S311 - chosen for repeating, not for secrecy
    shop = ShopMachine()
    shop.open_shop([dice.randint(0, 15) for _ in PRODUCTS])
    for step in range(100):
        _something_likely(shop, dice, step)
        shop.shops.check_orders_and_carts()
    shop.shops.check()


def _something_likely(shop: ShopMachine, dice: Random, step: int) -> None:
    """Publish something that could happen to one of the last few orders or to a cart."""
    order_id, cart_id = f"o{step // 12 - dice.randint(0, 1)}", dice.choice(CARTS)
    asked = {p: dice.randint(1, 4) for p in dice.sample(PRODUCTS, dice.randint(1, 2))}
    part = {p: dice.randint(1, 2) for p in dice.sample(sorted(asked), 1)}
    overdue = dice.random() < 0.3
    match dice.randint(0, 11):
        case 0 | 1:
            version = dice.choice((None, None, step))
            shop.update_cart(cart_id, dice.choice((asked, part, {})), version, dice.randint(0, 60), overdue=overdue)
        case 2 | 3 | 4:
            shop.create_order(order_id, dice.choice((None, cart_id)), asked, dice.randint(0, 60), overdue=overdue)
        case 5 | 6:
            shop.pay(order_id, dice.randint(0, 60), overdue=overdue, payment=dice.choice((None, "y1", "y2")))
        case 7:
            shop.cancel(order_id)
        case 8:
            shop.cancel_lines(order_id, part)
        case 9:
            shop.refund(order_id, step, part, restock=dice.choice((None, False)), returned=dice.choice((None, True)))
        case 10:
            dice.choice((lambda: shop.expire_order(order_id, 90), lambda: shop.expire_cart(cart_id, 90)))()
        case _:
            shop.shops.take(dice.choice(shop.shops.history), None)
    if dice.random() < 0.05:
        shop.adjust(dice.choice(PRODUCTS), ("ADD", dice.randint(1, 8)), dice.choice((None, 1, 5)), None)
