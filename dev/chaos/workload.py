"""What the shop's services publish, all of it decided by the seed: what, in which order, and when.

Times are seconds since the start of the workload; a run that lags publishes the same records later.
"""

import random
from collections import deque
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any, Literal

from dev.chaos import poison
from dev.chaos.schedule import Publication, Schedule

LIVE_PRODUCTS = 40
HOT_PRODUCTS = 3
EVENTS_PER_FLOW = 2.15
MAX_FREE_THRESHOLDS = 2

Envelope = Literal["plain", "structured", "binary"]
ENVELOPES: Mapping[str, Envelope] = {
    "order.created": "structured",
    "order.cancelled": "structured",
    "payment.succeeded": "binary",
    "payment.refunded": "binary",
}


class Workload:
    """An endless workload; `until(seconds)` gives what is due by then, in order."""

    def __init__(self, seed: int, events_per_second: float, order_ttl_seconds: float) -> None:
        draw = random.Random(f"{seed}-script")
        self._schedule = Schedule(draw)
        self._flows = _Flows(draw, self._schedule, order_ttl_seconds)
        self._pause = EVENTS_PER_FLOW / events_per_second
        self._next_flow = 0.2
        for number in range(HOT_PRODUCTS):
            self._flows.product(0.0, f"hot-{number}", 60)
        for _ in range(LIVE_PRODUCTS):
            self._flows.new_product(0.0)

    def until(self, seconds: float) -> Iterator[Publication]:
        """Give everything that is due by `seconds`."""
        while self._next_flow <= seconds:
            self._flows.begin(self._next_flow)
            self._next_flow += self._pause
        yield from self._schedule.until(seconds)

    def burst(self, count: int) -> Iterator[Publication]:
        """Give `count` poison records at once, for the fault `poison_burst`."""
        for _ in range(count):
            self._flows.poison(0.0)
        yield from self._schedule.burst()

    def rest(self) -> Iterator[Publication]:
        """Give what is left of the flows that have begun, so that the workload ends with complete flows."""
        yield from self._schedule.until(inf)


class _Flows:
    """What customers, warehouse and faulty producers do: each flow schedules its publications."""

    def __init__(self, draw: random.Random, schedule: Schedule, order_ttl_seconds: float) -> None:
        self._random = draw
        self._schedule = schedule
        self._order_ttl = order_ttl_seconds
        self._number = 0
        self._live: deque[str] = deque(maxlen=LIVE_PRODUCTS)
        self._thresholds: dict[str, int] = {}

    def begin(self, at: float) -> None:
        """Begin one flow: most of the time an order with its cart."""
        self._number += 1
        kinds = (self._order, self._abandoned_cart, self._adjustment, self.new_product, self.poison, self._fuzz)
        kind = self._random.choices(kinds, weights=(68, 9, 9, 5, 6, 3))[0]
        kind(at)

    def _order(self, at: float) -> None:
        draw = self._random
        order_id, lines = f"o{self._number}", self._lines()
        created_at = at + draw.uniform(0.0, 0.5)
        data: dict[str, Any] = {"order_id": order_id, "items": lines, "user_id": f"u{self._number % 97}"}
        if draw.random() < 0.4:
            data["cart_id"] = f"c{self._number}"
            self._cart(at, data["cart_id"], lines)
            created_at += 1.0
        age = draw.uniform(0.0, 4.0) if draw.random() < 0.1 else 0.0
        self._schedule.put(created_at, "order.created", order_id, f"{order_id}-created", data, age=age)
        if draw.random() < 0.04:
            other = {**data, "items": [{"product_id": self._any_product(), "quantity": 77}]}
            self._schedule.put(
                created_at + 1, "order.created", order_id, f"{order_id}-changed", other, expects=("conflict",)
            )
        fate = draw.random()
        if fate < 0.72:
            self._payment(created_at, order_id)
        if 0.60 < fate < 0.85:
            self._cancellation(created_at, order_id, lines)
        if fate < 0.12:
            self._refunds(created_at, order_id, lines)

    def _payment(self, created_at: float, order_id: str) -> None:
        draw = self._random
        kind = draw.random()
        if kind < 0.10:
            delay = -draw.uniform(0.0, 1.5)
        elif kind < 0.15:
            delay = self._order_ttl + draw.uniform(1.0, 6.0)
        elif kind < 0.40:
            delay = draw.uniform(3.0, self._order_ttl - 2.0)
        else:
            delay = draw.uniform(0.05, 2.5)
        data = {"order_id": order_id, "payment_id": f"p-{order_id}", "amount": 12.5}
        self._schedule.put(created_at + delay, "payment.succeeded", order_id, f"{order_id}-paid", data)

    def _cancellation(self, created_at: float, order_id: str, lines: list[dict[str, Any]]) -> None:
        draw = self._random
        data: dict[str, Any] = {"order_id": order_id, "reason": "changed my mind"}
        if draw.random() < 0.4:
            line = draw.choice(lines)
            data["items"] = [{**line, "quantity": draw.randint(1, line["quantity"] + 1)}]
        delay = draw.uniform(-1.0, 5.0)
        self._schedule.put(created_at + delay, "order.cancelled", order_id, f"{order_id}-cancelled", data)

    def _refunds(self, created_at: float, order_id: str, lines: list[dict[str, Any]]) -> None:
        draw = self._random
        for number in range(draw.randint(1, 2)):
            line = draw.choice(lines)
            data = {
                "order_id": order_id,
                "refund_id": f"r-{order_id}-{number}",
                "items": [{**line, "quantity": draw.randint(1, line["quantity"])}],
                "restock": draw.random() < 0.7,
            }
            delay = draw.uniform(0.0, 8.0)
            self._schedule.put(created_at + delay, "payment.refunded", order_id, f"{order_id}-refund{number}", data)

    def _cart(self, at: float, cart_id: str, lines: list[dict[str, Any]]) -> None:
        """Publish the cart's snapshots: it grows to `lines`, and sometimes the older snapshot comes after the newer."""
        draw = self._random
        for version in range(1, draw.randint(2, 4)):
            items = lines if version > 1 or draw.random() < 0.5 else lines[:1]
            moment = at + (0.9 if draw.random() < 0.1 else 0.2 * version)
            data = {"cart_id": cart_id, "user_id": f"u{self._number % 97}", "version": version, "items": items}
            self._schedule.put(moment, "cart.updated", cart_id, f"{cart_id}-v{version}", data)

    def _abandoned_cart(self, at: float) -> None:
        """A cart that is never ordered: emptied, or left until it expires."""
        cart_id = f"c{self._number}"
        self._cart(at, cart_id, self._lines())
        if self._random.random() < 0.3:
            data = {"cart_id": cart_id, "version": 9, "items": []}
            self._schedule.put(at + 2, "cart.updated", cart_id, f"{cart_id}-v9", data)

    def _adjustment(self, at: float) -> None:
        draw = self._random
        hot = draw.random() < 0.5
        product_id = f"hot-{draw.randrange(HOT_PRODUCTS)}" if hot else draw.choice(self._live)
        kind = draw.choices(("ADD", "SUBTRACT", "SET", "threshold"), weights=(70, 10, 8, 12))[0]
        data: dict[str, Any] = {"product_id": product_id, "reason": "stocktaking", "operator": "chaos"}
        if kind == "threshold":
            # A change of threshold leaves no ledger entry, so the checker tries every position for it; keep these few.
            if hot or self._thresholds.get(product_id, 0) >= MAX_FREE_THRESHOLDS:
                return
            self._thresholds[product_id] = self._thresholds.get(product_id, 0) + 1
            data["low_stock_threshold"] = draw.randint(0, 20)
        else:
            quantity = draw.randint(15, 60) if hot or kind == "SET" else draw.randint(1, 12)
            data |= {"operation": kind, "quantity": quantity}
            if kind == "SET" and draw.random() < 0.3:
                data["expected_version"] = draw.randint(1, 50)
        self._schedule.put(at, "inventory.adjustment", product_id, f"a{self._number}", data)

    def new_product(self, at: float) -> None:
        number = self._number if at else -len(self._live) - 1
        product_id = f"p{number}"
        self._live.append(product_id)
        self.product(at, product_id, self._random.choice((0, 5, 12, 30, 30, 60)))

    def product(self, at: float, product_id: str, quantity: int) -> None:
        data: dict[str, Any] = {"product_id": product_id, "initial_quantity": quantity}
        if self._random.random() < 0.5:
            data["low_stock_threshold"] = self._random.randint(0, 8)
        self._schedule.put(at, "product.created", product_id, f"{product_id}-created", data)
        if self._random.random() < 0.05:
            self._schedule.put(at + 1, "product.created", product_id, f"{product_id}-again", data)

    def poison(self, at: float) -> None:
        """Publish one poison record; a reused id is taken from a recent valid order."""
        draw = self._random
        number = self._schedule.next_number()
        kind = draw.choice(poison.POISONS)
        name = f"bad-{number}"
        if kind.reuses_id:
            orders = [sent for sent in self._schedule.recent if sent.topic == "order.created" and not sent.expects]
            if not orders:
                return
            original = draw.choice(orders)
            data = {**original.data, "items": [{"product_id": self._any_product(), "quantity": 99}]}
            self._schedule.put(at, original.topic, original.key, original.event_id, data, expects=kind.reasons)
            return
        data = {"order_id": name, "items": [{"product_id": self._any_product(), "quantity": 2}]}
        self._schedule.put(at, kind.topic, name, name, data, spoil=kind.name, expects=kind.reasons)

    def _fuzz(self, at: float) -> None:
        """Publish an event with a few bytes changed, about products of its own: it may or may not be valid."""
        draw = self._random
        topic, data = poison.near_valid(draw, f"fuzz-{self._number}")
        key = f"fuzz-{self._number}"
        number = self._schedule.next_number()
        self._schedule.put(at, topic, key, f"{key}-{number}", data, spoil=f"mutate-{draw.getrandbits(32)}", wild=True)

    def _lines(self) -> list[dict[str, Any]]:
        """Draw one to three lines; two may name the same product, as in real orders."""
        count = self._random.choices((1, 2, 3), weights=(6, 3, 1))[0]
        return [{"product_id": self._any_product(), "quantity": self._random.randint(1, 3)} for _ in range(count)]

    def _any_product(self) -> str:
        draw = self._random
        kind = draw.random()
        if kind < 0.01:
            return "never-created"
        if kind < 0.35:
            return f"hot-{draw.randrange(HOT_PRODUCTS)}"
        return draw.choice(self._live)
