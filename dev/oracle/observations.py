"""What a run published and what is observed after it, grouped for the checks of `dev.oracle.history`."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dev.oracle.events import Event
from dev.oracle.settings import Settings

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Observed:
    """The state after the run, as seen through the contracts.

    `stock` maps a product to (on_hand, reserved), `orders` an order to its status, `holds` a cart to its held units by
    product. `ledger` are rows of `inventory_transactions`. `outgoing` are the bodies of outgoing events with their
    `type`; those about one product are in the order of publication. `refused` maps the id of a refused event to the
    reason. `dead_lettered` are the ids of events that became dead letters because they waited past their deadline.
    """

    stock: Mapping[str, tuple[int, int]]
    ledger: Sequence[Row]
    orders: Mapping[str, str]
    holds: Mapping[str, Mapping[str, int]]
    outgoing: Sequence[Row]
    refused: Mapping[str, str | None] = field(default_factory=dict)
    dead_lettered: Collection[str] = ()


@dataclass(frozen=True)
class Violation:
    """A broken rule: its kind, the product, order or cart concerned, and the evidence."""

    kind: str
    subject: str
    message: str


@dataclass
class History:
    """The events and the observations, grouped by product, order and cart."""

    events: list[Event]
    observed: Observed
    settings: Settings
    products: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    orders: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    carts: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    outgoing: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    entries: dict[tuple[str, str], list[Row]] = field(default_factory=lambda: defaultdict(list))
    facts: dict[str, frozenset[str]] = field(default_factory=dict)
    refunds: frozenset[str] = frozenset()
    converted: dict[str, datetime] = field(default_factory=dict)
    lowest: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for event in self.events:
            if event.topic in {"product.created", "inventory.adjustment"}:
                self.products[event.data["product_id"]].append(event)
            elif event.topic == "cart.updated":
                self.carts[event.data["cart_id"]].append(event)
            elif event.id not in self.observed.dead_lettered:
                self.orders[event.data["order_id"]].append(event)
        for row in sorted(self.observed.ledger, key=lambda row: row["sequence"]):
            self.rows[row["product_id"]].append(row)
            self.entries[row["reference_type"], row["reference_id"]].append(row)
        for body in self.observed.outgoing:
            self.outgoing[body.get("order_id") or body.get("cart_id") or body["product_id"]].append(body)
        for product_id in (*self.observed.stock, *list(self.rows)):
            self.products.setdefault(product_id, [])
        self.facts = {order_id: frozenset(event.id for event in events) for order_id, events in self.orders.items()}
        self.refunds = frozenset(event.id for event in self.events if event.topic == "payment.refunded")
        self._find_conversions()

    def _find_conversions(self) -> None:
        """Set for each cart the time of the last served order that took its hold over."""
        served = {
            body["caused_by"]
            for body in self.observed.outgoing
            if body["type"].rpartition(".")[2] in {"reserved", "deducted", "released"}
        }
        for event in self.events:
            if event.topic == "order.created" and event.data.get("cart_id") and event.id in served:
                cart_id = event.data["cart_id"]
                self.converted[cart_id] = max(event.at, self.converted.get(cart_id, event.at))

    def lowest_available(self, product_id: str) -> int:
        """Return the fewest units that were ever available of a product while it was known."""
        if product_id not in self.lowest:
            rows = self.rows.get(product_id, [])
            was_empty = not rows or rows[0]["reference_type"] != "IMPORT"
            self.lowest[product_id] = min(
                [row["on_hand_after"] - row["reserved_after"] for row in rows] + [0] * was_empty
            )
        return self.lowest[product_id]


def cause_of(cause: str) -> str:
    """Return the id of an event's cause; all expiries are one."""
    return "expired" if cause.startswith("expired:") else cause
