"""An order while it is being decided: its lines are counted here, and it is frozen once, at the end.

One `OrderDraft` lives for one decision, beside the `Movements` that carries the pieces. The order it
was made from stays as it is.
"""

from collections.abc import Mapping

from domain.model import Line, Order
from domain.movements import Movements


class OrderDraft:
    """The facts of one order, open for change."""

    __slots__ = (
        "_version",
        "cart_id",
        "expires_at",
        "lines",
        "order_id",
        "paid",
        "refused",
        "seen",
        "status",
        "user_id",
        "waiting",
    )

    def __init__(self, order: Order) -> None:
        self.order_id = order.order_id
        self.status = order.status
        self.user_id = order.user_id
        self.cart_id = order.cart_id
        self.lines = dict(order.lines)
        self.paid = order.paid
        self.refused = order.refused
        self.waiting = order.waiting
        self.seen = order.seen
        self.expires_at = order.expires_at
        self._version = order.version

    def freeze(self) -> Order:
        """Return the order as it is now, one version on."""
        return Order(
            self.order_id,
            self.status,
            self.user_id,
            self.cart_id,
            self.lines,
            self.paid,
            self.refused,
            self.waiting,
            self.seen,
            self.expires_at,
            self._version + 1,
        )

    # --- what there is

    def is_wanted(self) -> bool:
        """Say whether the customer still wants any piece."""
        return any(line.cancelled < line.requested for line in self.lines.values())

    def held(self) -> dict[str, int]:
        """Return the pieces that are reserved now."""
        return {product_id: held for product_id, line in self.lines.items() if (held := line.held)}

    def outside(self) -> dict[str, int]:
        """Return the pieces that left the shelf and can still come back."""
        return {product_id: line.outside for product_id, line in self.lines.items() if line.outside}

    def has(self, lines: Mapping[str, int], bound: str) -> bool:
        """Say whether every quantity is at most what the order's line has of `bound`."""
        return all(
            product_id in self.lines and quantity <= getattr(self.lines[product_id], bound)
            for product_id, quantity in lines.items()
        )

    # --- what happens to it

    def see(self, identity: str) -> None:
        """Remember that a partial cancellation or a refund was judged."""
        self.seen = (*self.seen, identity)

    def reserve(self, moves: Movements) -> None:
        """Hold what is wanted of every line."""
        for product_id, line in self.lines.items():
            requested, cancelled, reserved, released, deducted, restocked, withheld = line
            wanted = requested - cancelled
            if wanted:
                moves.reserve(product_id, wanted)
                reserved += wanted
                self.lines[product_id] = Line(requested, cancelled, reserved, released, deducted, restocked, withheld)

    def deduct(self, moves: Movements) -> dict[str, int]:
        """Take off the shelf what is held; returns those pieces."""
        taken = self.held()
        for product_id, quantity in taken.items():
            moves.deduct(product_id, quantity)
        self.count(taken, "deducted")
        return taken

    def release(self, moves: Movements, lines: Mapping[str, int]) -> None:
        """Let go of pieces that are held."""
        for product_id, quantity in lines.items():
            moves.release(product_id, quantity)
        self.count(lines, "released")

    def restock(self, moves: Movements, lines: Mapping[str, int]) -> None:
        """Put pieces back on the shelf."""
        for product_id, quantity in lines.items():
            moves.restock(product_id, quantity)
        self.count(lines, "restocked")

    def count_as_undone(self) -> None:
        """Count what an order paid and cancelled would have taken and given back; nothing moves.

        Its refunds are then judged like those of an order that was deducted first.
        """
        for product_id, line in self.lines.items():
            wanted = line.wanted
            self.lines[product_id] = line._replace(
                cancelled=line.cancelled + wanted,
                reserved=line.reserved + wanted,
                deducted=line.deducted + wanted,
                restocked=line.restocked + wanted,
            )

    def withhold_again(self, moves: Movements, lines: Mapping[str, int]) -> None:
        """Take pieces off the shelf that the whole order's cancellation had put back."""
        for product_id, quantity in lines.items():
            moves.write_off(product_id, quantity)
            line = self.lines[product_id]
            self.lines[product_id] = line._replace(
                cancelled=line.cancelled - quantity,
                restocked=line.restocked - quantity,
                withheld=line.withheld + quantity,
            )

    def count(self, lines: Mapping[str, int], counter: str) -> None:
        """Add `lines` to one counter."""
        position = Line._fields.index(counter)
        for product_id, quantity in lines.items():
            counters = list(self.lines[product_id])
            counters[position] += quantity
            self.lines[product_id] = Line(*counters)
