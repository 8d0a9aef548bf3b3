"""Due holds: which of them expire in favour of a command that would run short, and in which order.

The order is defined, because it decides who keeps stock: by the deadline that a hold has now, then by kind, then by id.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from heapq import heapify, heappop, heappush
from typing import Literal, NamedTuple

from domain.model import CartStatus, Decision, Order, OrderStatus, State


class DueHold(NamedTuple):
    """A hold and its deadline. Sorted, holds are in the order in which they expire."""

    expires_at: datetime
    kind: Literal["cart", "order"]
    owner_id: str


class DueHolds:
    """The holds on some products that are due before `due_before`, kept up to date with every decision.

    `found_until` names these products. Its value is the last due hold that was loaded where there may be later ones
    that were not; None where all were. A product whose loaded holds did not suffice is added to `exhausted`: what was
    decided since then must be decided again with more of them.
    """

    __slots__ = ("_found_until", "_queues", "due_before", "exhausted")

    def __init__(self, state: State, due_before: datetime, found_until: Mapping[str, DueHold | None]) -> None:
        self.due_before = due_before
        self.exhausted: set[str] = set()
        self._found_until = found_until
        # Heaps. An entry may be out of date: `oldest` drops those that the state no longer bears out.
        self._queues: dict[str, list[DueHold]] = {product_id: [] for product_id in found_until}
        for order in state.orders.values():
            for queue, hold in self._entries(order.expires_at, "order", order.order_id, order.lines):
                queue.append(hold)
        for cart in state.carts.values():
            for queue, hold in self._entries(cart.expires_at, "cart", cart.cart_id, cart.held):
                queue.append(hold)
        for queue in self._queues.values():
            heapify(queue)

    def add(self, decision: Decision) -> None:
        """Add the hold that a decision made or renewed, where it is due already."""
        order, cart = decision.order, decision.cart
        if order is not None and order.expires_at is not None:
            for queue, hold in self._entries(order.expires_at, "order", order.order_id, order.lines):
                heappush(queue, hold)
        if cart is not None and cart.expires_at is not None:
            for queue, hold in self._entries(cart.expires_at, "cart", cart.cart_id, cart.held):
                heappush(queue, hold)

    def oldest(self, state: State, product_id: str) -> DueHold | None:
        """Return the oldest due hold with units of the product; None without one, or where its rows were not loaded."""
        queue = self._queues.get(product_id)
        if queue is None:
            return None
        while queue and not _stands(state, queue[0], product_id):
            heappop(queue)
        until = self._found_until[product_id]
        if until is not None and (not queue or queue[0] > until):
            self.exhausted.add(product_id)
            return None
        return queue[0] if queue else None

    def _entries(
        self, expires_at: datetime | None, kind: Literal["cart", "order"], owner_id: str, products: Iterable[str]
    ) -> Iterable[tuple[list[DueHold], DueHold]]:
        if expires_at is None or expires_at >= self.due_before:
            return
        hold = DueHold(expires_at, kind, owner_id)
        for product_id in products:
            queue = self._queues.get(product_id)
            if queue is not None:
                yield queue, hold


def _stands(state: State, hold: DueHold, product_id: str) -> bool:
    """Say whether the hold has this deadline and units of the product now."""
    if hold.kind == "order":
        order = state.orders.get(hold.owner_id)
        return order is not None and order.expires_at == hold.expires_at and _held(order, product_id) > 0
    cart = state.carts.get(hold.owner_id)
    return (
        cart is not None
        and cart.status is CartStatus.ACTIVE
        and cart.expires_at == hold.expires_at
        and product_id in cart.held
    )


def _held(order: Order, product_id: str) -> int:
    line = order.lines.get(product_id)
    return 0 if line is None or order.status is not OrderStatus.RESERVED else line.held
