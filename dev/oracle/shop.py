"""The shop as the design describes it: events go in one by one; dispositions, outcomes and edges come out.

The model differs from the worker's on purpose. The worker is a state machine; here an order is the set of facts known
about it, and one rule says how many of its units those facts require to be held and to be deducted. After every event
the stock is moved to what the rule requires, and the ledger records those movements. So "any permutation of an order's
events ends in the same stock" is true of this model by construction, while the worker has to be tested for it.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import datetime

from dev.oracle import cancellations, carts, orders, payments, products, refunds
from dev.oracle.events import Event, PublishedEvent, read
from dev.oracle.order_facts import OrderFacts
from dev.oracle.settings import Settings
from dev.oracle.stock import Product, Stock
from dev.oracle.verdicts import Lines, Verdict


class Shop:
    """The whole shop.

    With `suppress_repeats`, an event whose (source, id) was applied before does nothing. `has_stock` is passed on to
    the `Stock`.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        suppress_repeats: bool = False,
        has_stock: Callable[[Lines], bool] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.suppress_repeats = suppress_repeats
        self.orders: dict[str, OrderFacts] = {}
        self.carts: dict[str, carts.Cart] = {}
        self._stock = Stock(has_stock)
        self._applied: set[tuple[str, str]] = set()

    @property
    def products(self) -> dict[str, Product]:
        """The products by id."""
        return self._stock.products

    def apply(self, published: PublishedEvent, due_before: datetime | None = None) -> Verdict:
        """Apply one event and return what it must lead to.

        With `due_before`, holds that are due before then expire first, for as long as the event would run short of a
        product: each time the oldest hold on such a product, by deadline, then kind, then id.
        """
        event = read(published)
        if self.suppress_repeats and event.identity in self._applied:
            return Verdict("duplicate")
        expired = [] if due_before is None else list(self._expire_due_holds(event, due_before))
        verdict = self._stock.close(self._judge(event), event.id)
        verdict.expired = expired
        if verdict.disposition != "conflict":
            self._applied.add(event.identity)
        return verdict

    def expire_order(self, order_id: str, due_before: datetime) -> Verdict:
        """Release an order's hold if it was due."""
        order = self.orders.get(order_id)
        if order is None or not order.is_due(due_before):
            return Verdict("duplicate")
        cause = f"expired:order:{order_id}"
        return self._stock.close(orders.expire(order, self._stock, cause), cause)

    def expire_cart(self, cart_id: str, due_before: datetime) -> Verdict:
        """Release a cart's hold if it was due."""
        cart = self.carts.get(cart_id)
        if cart is None or not cart.is_due(due_before):
            return Verdict("duplicate")
        cause = f"expired:cart:{cart_id}"
        return self._stock.close(carts.expire(cart, self._stock, cause), cause)

    def forget(self, order_id: str, identity: tuple[str, str]) -> bool:
        """Withdraw a fact that waited past its deadline; returns False if no such fact waits."""
        order = self.orders.get(order_id)
        kept = [] if order is None else [event for event in order.waiting if event.identity != identity]
        if order is None or len(kept) == len(order.waiting):
            return False
        order.waiting = kept
        return True

    def _judge(self, event: Event) -> Verdict:
        """Apply the rule of the event's topic."""
        if event.topic == "product.created":
            return products.created(event, self._stock, self.settings.default_threshold)
        if event.topic == "inventory.adjustment":
            return products.adjusted(event, self._stock)
        if event.topic == "cart.updated":
            return carts.updated(self.carts, event, self._stock, self.settings.cart_ttl)
        return self._judge_order_event(event)

    def _judge_order_event(self, event: Event) -> Verdict:
        order_id = event.data["order_id"]
        order = self.orders.setdefault(order_id, OrderFacts(order_id))
        match event.topic:
            case "order.created":
                return orders.created(order, event, self._stock, self.carts, self.settings)
            case "payment.succeeded":
                return payments.paid(order, event, self._stock, self.settings.late_payment)
            case "order.cancelled":
                return cancellations.cancelled(order, event, self._stock)
            case "payment.refunded":
                return refunds.refunded(order, event, self._stock)
            case _:
                raise ValueError(f"the oracle has no rule for topic {event.topic}")

    def _expire_due_holds(self, event: Event, due_before: datetime) -> Iterator[Verdict]:
        """Expire the oldest due hold on a product that the event would run short of, until no such hold is left."""
        while short_of := self._would_run_short(event):
            due = [
                (order.expires_at, "order", order.order_id)
                for order in self.orders.values()
                if order.is_due(due_before) and any(order.remaining().get(product_id) for product_id in short_of)
            ] + [
                (cart.expires_at, "cart", cart.cart_id)
                for cart in self.carts.values()
                if cart.is_due(due_before) and short_of & cart.held.keys()
            ]
            if not due:
                return
            _, kind, owner = min(due)
            yield self.expire_order(owner, due_before) if kind == "order" else self.expire_cart(owner, due_before)

    def _would_run_short(self, event: Event) -> set[str]:
        """Return the products of which the event would find too little, by applying it to a copy of this shop."""
        rehearsal = deepcopy(self)
        rehearsal.suppress_repeats = False
        return rehearsal.apply(event.published).short_of
