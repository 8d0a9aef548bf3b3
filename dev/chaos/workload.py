"""What the shop's services publish, all of it decided by the seed: what, in which order, and when.

Times are seconds since the workload began; a run that is late publishes late, but the same.
"""

import heapq
import random
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dev.chaos import poison

LIVE_PRODUCTS = 40
HOT_PRODUCTS = 3
EVENTS_PER_FLOW = 2.15
RECENT = 50
MAX_FREE_THRESHOLDS = 2

Envelope = Literal["plain", "structured", "binary"]
ENVELOPES: Mapping[str, Envelope] = {
    "order.created": "structured",
    "order.cancelled": "structured",
    "payment.succeeded": "binary",
    "payment.refunded": "binary",
}


@dataclass(frozen=True, slots=True)
class Publication:
    """One record to publish. `expects` names the allowed reasons of its dead letter; none for a good event.

    `wild` bytes may be anything, an event included. `age` is how many seconds before its publication it happened.
    """

    topic: str
    key: str
    event_id: str
    data: Mapping[str, Any]
    age: float = 0.0
    spoil: str | None = None
    expects: tuple[str, ...] = ()
    wild: bool = False
    copy_of: int | None = None
    number: int = 0


@dataclass(order=True, slots=True)
class _Due:
    at: float
    number: int
    publication: Publication = field(compare=False)


class Workload:
    """An endless workload; `until(seconds)` gives what is due by then, in order."""

    def __init__(self, seed: int, events_per_second: float, order_ttl_seconds: float) -> None:
        self._random = random.Random(f"{seed}-script")
        self._pause = EVENTS_PER_FLOW / events_per_second
        self._order_ttl = order_ttl_seconds
        self._due: list[_Due] = []
        self._next_flow = 0.2
        self._flows = 0
        self._numbers = 0
        self._live: deque[str] = deque(maxlen=LIVE_PRODUCTS)
        self._thresholds: dict[str, int] = {}
        self._recent: deque[Publication] = deque(maxlen=RECENT)
        for number in range(HOT_PRODUCTS):
            self._product(0.0, f"hot-{number}", 60)
        for _ in range(LIVE_PRODUCTS):
            self._new_product(0.0)

    def until(self, seconds: float) -> Iterator[Publication]:
        """Give everything that is due by `seconds`."""
        while self._next_flow <= seconds:
            self._flow(self._next_flow)
            self._next_flow += self._pause
        while self._due and self._due[0].at <= seconds:
            yield self._publish(heapq.heappop(self._due).publication)

    def burst(self, count: int) -> Iterator[Publication]:
        """Give `count` bad records at once, for the fault of that name."""
        for _ in range(count):
            self._poison(0.0)
        burst = [due for due in self._due if due.at == 0.0]
        self._due = [due for due in self._due if due.at != 0.0]
        heapq.heapify(self._due)
        for due in sorted(burst):
            yield self._publish(due.publication)

    def rest(self) -> Iterator[Publication]:
        """Give what belongs to flows that have begun, so that the workload ends in whole stories."""
        while self._due:
            yield self._publish(heapq.heappop(self._due).publication)

    # --- flows ------------------------------------------------------------------------------------

    def _flow(self, at: float) -> None:
        """Begin one story: an order with its cart most of the time."""
        self._flows += 1
        kinds = (self._order, self._lonely_cart, self._adjustment, self._new_product, self._poison, self._fuzz)
        kind = self._random.choices(kinds, weights=(68, 9, 9, 5, 6, 3))[0]
        kind(at)

    def _order(self, at: float) -> None:
        draw = self._random
        order_id, lines = f"o{self._flows}", self._lines()
        created_at = at + draw.uniform(0.0, 0.5)
        data: dict[str, Any] = {"order_id": order_id, "items": lines, "user_id": f"u{self._flows % 97}"}
        if draw.random() < 0.4:
            data["cart_id"] = f"c{self._flows}"
            self._cart(at, data["cart_id"], lines)
            created_at += 1.0
        self._put(created_at, "order.created", order_id, f"{order_id}-created", data, age=self._age())
        if draw.random() < 0.04:
            other = {**data, "items": [{"product_id": self._any_product(), "quantity": 77}]}
            self._put(created_at + 1, "order.created", order_id, f"{order_id}-changed", other, expects=("conflict",))
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
        self._put(created_at + delay, "payment.succeeded", order_id, f"{order_id}-paid", data)

    def _cancellation(self, created_at: float, order_id: str, lines: list[dict[str, Any]]) -> None:
        draw = self._random
        data: dict[str, Any] = {"order_id": order_id, "reason": "changed my mind"}
        if draw.random() < 0.4:
            line = draw.choice(lines)
            data["items"] = [{**line, "quantity": draw.randint(1, line["quantity"] + 1)}]
        delay = draw.uniform(-1.0, 5.0)
        self._put(created_at + delay, "order.cancelled", order_id, f"{order_id}-cancelled", data)

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
            self._put(created_at + delay, "payment.refunded", order_id, f"{order_id}-refund{number}", data)

    def _cart(self, at: float, cart_id: str, lines: list[dict[str, Any]]) -> None:
        """Publish the cart's snapshots: it grows to `lines`, and sometimes the old one comes after the new."""
        draw = self._random
        for version in range(1, draw.randint(2, 4)):
            items = lines if version > 1 or draw.random() < 0.5 else lines[:1]
            moment = at + (0.9 if draw.random() < 0.1 else 0.2 * version)
            data = {"cart_id": cart_id, "user_id": f"u{self._flows % 97}", "version": version, "items": items}
            self._put(moment, "cart.updated", cart_id, f"{cart_id}-v{version}", data)

    def _lonely_cart(self, at: float) -> None:
        """A cart that is never ordered: emptied, or left until it expires."""
        cart_id = f"c{self._flows}"
        self._cart(at, cart_id, self._lines())
        if self._random.random() < 0.3:
            data = {"cart_id": cart_id, "version": 9, "items": []}
            self._put(at + 2, "cart.updated", cart_id, f"{cart_id}-v9", data)

    def _adjustment(self, at: float) -> None:
        draw = self._random
        hot = draw.random() < 0.5
        product_id = f"hot-{draw.randrange(HOT_PRODUCTS)}" if hot else draw.choice(self._live)
        kind = draw.choices(("ADD", "SUBTRACT", "SET", "threshold"), weights=(70, 10, 8, 12))[0]
        data: dict[str, Any] = {"product_id": product_id, "reason": "stocktaking", "operator": "chaos"}
        if kind == "threshold":
            # A threshold alone leaves no entry in the ledger: the checker tries every place where it may have come.
            if hot or self._thresholds.get(product_id, 0) >= MAX_FREE_THRESHOLDS:
                return
            self._thresholds[product_id] = self._thresholds.get(product_id, 0) + 1
            data["low_stock_threshold"] = draw.randint(0, 20)
        else:
            quantity = draw.randint(15, 60) if hot or kind == "SET" else draw.randint(1, 12)
            data |= {"operation": kind, "quantity": quantity}
            if kind == "SET" and draw.random() < 0.3:
                data["expected_version"] = draw.randint(1, 50)
        self._put(at, "inventory.adjustment", product_id, f"a{self._flows}", data)

    def _new_product(self, at: float) -> None:
        number = self._flows if at else -len(self._live) - 1
        product_id = f"p{number}"
        self._live.append(product_id)
        self._product(at, product_id, self._random.choice((0, 5, 12, 30, 30, 60)))

    def _product(self, at: float, product_id: str, quantity: int) -> None:
        data: dict[str, Any] = {"product_id": product_id, "initial_quantity": quantity}
        if self._random.random() < 0.5:
            data["low_stock_threshold"] = self._random.randint(0, 8)
        self._put(at, "product.created", product_id, f"{product_id}-created", data)
        if self._random.random() < 0.05:
            self._put(at + 1, "product.created", product_id, f"{product_id}-again", data)

    def _poison(self, at: float) -> None:
        """Publish one bad record; those that need a good one before them take a recent event."""
        draw = self._random
        self._numbers += 1
        kind = draw.choice(poison.POISONS)
        name = f"bad-{self._numbers}"
        if kind.reuses_id:
            orders = [sent for sent in self._recent if sent.topic == "order.created" and not sent.expects]
            if not orders:
                return
            original = draw.choice(orders)
            data = {**original.data, "items": [{"product_id": self._any_product(), "quantity": 99}]}
            self._put(at, original.topic, original.key, original.event_id, data, expects=kind.reasons)
            return
        data = {"order_id": name, "items": [{"product_id": self._any_product(), "quantity": 2}]}
        self._put(at, kind.topic, name, name, data, spoil=kind.name, expects=kind.reasons)

    def _fuzz(self, at: float) -> None:
        """Publish an event of a shop of its own with a few bytes changed: nobody knows what it is then."""
        draw = self._random
        topic, data = poison.near_valid(draw, f"fuzz-{self._flows}")
        key = f"fuzz-{self._flows}"
        self._numbers += 1
        self._put(at, topic, key, f"{key}-{self._numbers}", data, spoil=f"mutate-{draw.getrandbits(32)}", wild=True)

    # --- what all flows use -----------------------------------------------------------------------

    def _put(self, at: float, topic: str, key: str, event_id: str, data: Mapping[str, Any], **more: Any) -> None:  # noqa: ANN401 - fields of a publication
        self._numbers += 1
        publication = Publication(topic, key, event_id, data, number=self._numbers, **more)
        heapq.heappush(self._due, _Due(max(at, 0.0), self._numbers, publication))
        if not (publication.expects or publication.wild) and self._random.random() < 0.05:
            original = self._numbers
            self._numbers += 1
            again = Publication(topic, key, event_id, data, number=self._numbers, copy_of=original)
            later = at + self._random.choice((0.0, 0.3, 4.0))
            heapq.heappush(self._due, _Due(max(later, 0.0), self._numbers, again))

    def _publish(self, publication: Publication) -> Publication:
        if not (publication.expects or publication.wild or publication.copy_of):
            self._recent.append(publication)
        return publication

    def _age(self) -> float:
        return self._random.uniform(0.0, 4.0) if self._random.random() < 0.1 else 0.0

    def _lines(self) -> list[dict[str, Any]]:
        """Draw one to three lines; a product may stand in two of them, as real orders have it."""
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
