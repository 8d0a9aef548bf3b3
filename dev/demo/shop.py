"""The demo's shop: customers fill carts, order, pay, cancel and return, all decided by the seed.

Nothing here reads a clock or uses the network. `script()` gives publications in the order in which they are due; the
same seed gives the same publications, ids included.
"""

import heapq
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dev.demo.poison import POISONS

# Publications per visit, on average: converts events per second into visits per second.
EVENTS_PER_VISIT: Final = 3.3
STOCK_AT_RATE: Final = 150.0
UNITS_MAX: Final = 1_000_000
RESTOCK_SECONDS: Final = (1.0, 2.5)
FLASH_BEGINS: Final = 0.3
FLASH_LASTS: Final = 0.2
FLASH_RESTOCK: Final = 0.68
FLASH_SHARE: Final = 0.6
ORDERED: Final = 0.85  # the other carts are abandoned and expire
SENT_TWICE: Final = 0.04
CART_LATE: Final = 0.08
POISONED: Final = 0.06

# What follows an order, and what follows a payment, in percent.
AFTER_ORDER: Final = {"paid": 73, "never paid": 8, "cancelled": 8, "paid early": 6, "cancelled in part": 5}
AFTER_PAYMENT: Final = {"kept": 86, "cancelled": 5, "sent back": 4, "sent back broken": 3, "mixed up": 2}


@dataclass(frozen=True, slots=True)
class ProductOnSale:
    """A product, its initial stock, and how often it is ordered."""

    product_id: str
    stock: int
    threshold: int
    popularity: float


_RANGE: Final = (
    ProductOnSale("tea-green", 210, 50, 9),
    ProductOnSale("tea-earl-grey", 215, 45, 7),
    ProductOnSale("mug-blue", 120, 35, 6),
    ProductOnSale("teapot-clay", 60, 16, 3),
    ProductOnSale("honey-jar", 150, 35, 5),
    ProductOnSale("biscuit-tin", 85, 25, 4),
    ProductOnSale("strainer", 50, 14, 2),
)
# Rarely ordered until its flash sale.
_FLASH: Final = ProductOnSale("lantern-limited", 80, 25, 0)


@dataclass(frozen=True, slots=True)
class Publication:
    """One record to be published `due` seconds after the shop opened.

    `kind` is its name in the summary. `poison` names what is made invalid about it. `age` is how many seconds before
    its publication the event happened.
    """

    due: float
    kind: str
    topic: str
    key: str
    event_id: str
    data: Mapping[str, Any] = field(default_factory=dict)
    poison: str | None = None
    age: float = 0.0


def products(rate: float) -> tuple[ProductOnSale, ...]:
    """Return the products, with so much stock that a shop at this rate sells out and restocks."""
    scale = max(rate / STOCK_AT_RATE, 0.1)

    def scaled(units: int) -> int:
        return min(max(round(units * scale), 2), UNITS_MAX)

    return tuple(
        replace(product, stock=scaled(product.stock), threshold=scaled(product.threshold))
        for product in (*_RANGE, _FLASH)
    )


def opening(rate: float) -> list[Publication]:
    """Return the publications that create the products, before the shop opens."""
    return [
        Publication(
            0.0,
            "new product",
            "product.created",
            product.product_id,
            f"product-{product.product_id}",
            {
                "product_id": product.product_id,
                "initial_quantity": product.stock,
                "low_stock_threshold": product.threshold,
            },
        )
        for product in products(rate)
    ]


def script(seed: int, seconds: float, rate: float) -> Iterator[Publication]:
    """Give the shop's publications in the order in which they are due; none is due after `seconds`."""
    shop = _Shop(random.Random(seed), seconds, rate)  # noqa: S311 - reproducible, not a secret
    yield from shop.run()


class _Shop:
    """Visits begin at random times; each schedules the publications that follow from it."""

    def __init__(self, choice: random.Random, seconds: float, rate: float) -> None:
        self._choice = choice
        self._seconds = seconds
        self._products = products(rate)
        self._visits_per_second = rate / EVENTS_PER_VISIT
        self._queue: list[tuple[float, int, Publication]] = []
        self._order_of_scheduling = itertools.count()
        self._visits = itertools.count(1)
        self._restocks = itertools.count(1)
        self._poisons = itertools.cycle(POISONS)
        # The shop's own estimate of its stock, deliveries included; it does not know what the worker refuses.
        self._believed = {product.product_id: product.stock for product in self._products}

    def run(self) -> Iterator[Publication]:
        """Simulate visits until the shop closes, and give what is due in between."""
        flash = self._products[-1]
        self._restock(flash, self._seconds * FLASH_RESTOCK, flash.stock)
        now = 0.0
        while now < self._seconds:
            now += self._choice.expovariate(self._visits_per_second)
            yield from self._due(min(now, self._seconds))
            self._visit(now)

    def _due(self, now: float) -> Iterator[Publication]:
        while self._queue and self._queue[0][0] <= now:
            yield heapq.heappop(self._queue)[2]

    def _publish(self, publication: Publication) -> None:
        """Schedule a publication, and sometimes the producer's repeat of it."""
        self._push(publication)
        if self._happens(SENT_TWICE):
            self._push(replace(publication, due=publication.due + self._choice.uniform(0.02, 1.0), kind="sent again"))

    def _push(self, publication: Publication) -> None:
        heapq.heappush(self._queue, (publication.due, next(self._order_of_scheduling), publication))

    def _happens(self, share: float) -> bool:
        return self._choice.random() < share

    def _one_of(self, weights: Mapping[str, int]) -> str:
        return self._choice.choices(tuple(weights), tuple(weights.values()))[0]

    # --- one visit ------------------------------------------------------------------------------

    def _visit(self, now: float) -> None:
        """Fill a cart and, mostly, order it."""
        visit = _Visit(f"{next(self._visits):05d}", self._wanted(now))
        now = self._fill_cart(visit, now)
        if not self._happens(ORDERED):
            return
        self._order(visit, now)
        if self._happens(POISONED):
            self._poison(visit, now)

    def _wanted(self, now: float) -> dict[str, int]:
        """Choose one to three products; during the flash sale mostly its product."""
        flash = self._products[-1]
        began = self._seconds * FLASH_BEGINS
        if began <= now < began + self._seconds * FLASH_LASTS and self._happens(FLASH_SHARE):
            return {flash.product_id: self._choice.choice((1, 1, 1, 2))}
        weights = [product.popularity + (now > began and product is flash) for product in self._products]
        chosen = self._choice.choices(self._products, weights, k=self._choice.choice((1, 1, 2, 3)))
        return {product.product_id: self._choice.choice((1, 1, 1, 2, 3)) for product in chosen}

    def _fill_cart(self, visit: "_Visit", now: float) -> float:
        """Publish the cart's snapshots, sometimes an outdated one last; returns the time of the order."""
        first = dict(itertools.islice(visit.items.items(), 1))
        self._publish(visit.cart(now, 1, first))
        if len(visit.items) > 1:
            now += self._choice.uniform(0.3, 1.0)
            self._publish(visit.cart(now, 2, visit.items))
            if self._happens(CART_LATE):
                late = visit.cart(now + 0.4, 1, first)
                self._push(replace(late, event_id=f"{late.event_id}-late", age=1.5))
        return now + self._choice.uniform(0.4, 1.2)

    def _order(self, visit: "_Visit", now: float) -> None:
        """Publish an order and what follows from it."""
        self._publish(visit.order(now))
        for product_id, quantity in visit.items.items():
            self._sell(product_id, quantity, now)
        paid = now + self._choice.uniform(0.3, 1.4)
        match self._one_of(AFTER_ORDER):
            case "never paid":
                return
            case "cancelled":
                self._publish(visit.cancellation(paid, "changed my mind"))
                return
            case "paid early":
                # Topics have no order between each other: this payment is read before its order.
                paid = now - self._choice.uniform(0.1, 0.4)
            case "cancelled in part" if visit.units() > 1:
                self._publish(visit.cancellation((now + paid) / 2, "one unit less", visit.one_unit()))
        self._publish(visit.payment(paid))
        self._after_payment(visit, max(now, paid) + self._choice.uniform(0.6, 2.5))

    def _after_payment(self, visit: "_Visit", now: float) -> None:
        """Let some customers cancel or return goods."""
        match self._one_of(AFTER_PAYMENT):
            case "cancelled":
                self._publish(visit.cancellation(now, "too late for the birthday"))
            case "sent back":
                self._publish(visit.refund(now, restock=True))
            case "sent back broken":
                self._publish(visit.refund(now, restock=False))
            case "mixed up":
                # This payment names an unknown order, so it is parked until its deadline.
                self._publish(replace(visit, number=f"{visit.number}-unknown").payment(now))

    # --- the warehouse ----------------------------------------------------------------------------

    def _sell(self, product_id: str, quantity: int, now: float) -> None:
        """Record a sale, and restock a product that runs low."""
        self._believed[product_id] -= quantity
        product = next(product for product in self._products if product.product_id == product_id)
        if product is not self._products[-1] and self._believed[product_id] <= product.threshold:
            self._restock(product, now + self._choice.uniform(*RESTOCK_SECONDS), product.stock)

    def _restock(self, product: ProductOnSale, due: float, quantity: int) -> None:
        self._believed[product.product_id] += quantity
        event_id = f"delivery-{next(self._restocks):04d}"
        data = {
            "product_id": product.product_id,
            "operation": "ADD",
            "quantity": quantity,
            "reason": "delivery",
            "operator": "warehouse",
        }
        self._publish(Publication(due, "delivery", "inventory.adjustment", product.product_id, event_id, data))

    # --- what should not happen -------------------------------------------------------------------

    def _poison(self, visit: "_Visit", now: float) -> None:
        """Publish the next kind of poison on its topic."""
        poison = next(self._poisons)
        order = visit.order(now + self._choice.uniform(1.5, 2.5))
        event_id = order.event_id if poison.reuses_id else f"{order.key}-spoilt"
        self._push(replace(order, kind="poison", topic=poison.topic, event_id=event_id, poison=poison.name))


@dataclass(frozen=True, slots=True)
class _Visit:
    """The ids of one visit, and its events."""

    number: str
    items: Mapping[str, int]

    def units(self) -> int:
        return sum(self.items.values())

    def one_unit(self) -> dict[str, int]:
        return dict.fromkeys(itertools.islice(self.items, 1), 1)

    def cart(self, due: float, version: int, items: Mapping[str, int]) -> Publication:
        cart_id = f"cart-{self.number}"
        data = {"cart_id": cart_id, "user_id": f"user-{self.number}", "version": version, "items": _lines(items)}
        return Publication(due, "cart updated", "cart.updated", cart_id, f"{cart_id}-v{version}", data)

    def order(self, due: float) -> Publication:
        order_id = f"order-{self.number}"
        data = {
            "order_id": order_id,
            "cart_id": f"cart-{self.number}",
            "user_id": f"user-{self.number}",
            "items": _lines(self.items),
        }
        return Publication(due, "order created", "order.created", order_id, f"{order_id}-created", data)

    def payment(self, due: float) -> Publication:
        order_id = f"order-{self.number}"
        data = {"order_id": order_id, "payment_id": f"payment-{self.number}", "method": "card"}
        return Publication(due, "payment", "payment.succeeded", order_id, f"{order_id}-paid", data)

    def cancellation(self, due: float, reason: str, items: Mapping[str, int] | None = None) -> Publication:
        order_id = f"order-{self.number}"
        data: dict[str, Any] = {"order_id": order_id, "reason": reason}
        event_id = f"{order_id}-cancelled"
        if items is not None:
            data["items"] = _lines(items)
            event_id += "-in-part"
        return Publication(due, "cancellation", "order.cancelled", order_id, event_id, data)

    def refund(self, due: float, *, restock: bool) -> Publication:
        order_id = f"order-{self.number}"
        data = {
            "order_id": order_id,
            "refund_id": f"refund-{self.number}",
            "items": _lines(self.one_unit()),
            "restock": restock,
        }
        return Publication(due, "refund", "payment.refunded", order_id, f"{order_id}-refunded", data)


def _lines(items: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"product_id": product_id, "quantity": quantity} for product_id, quantity in items.items()]
