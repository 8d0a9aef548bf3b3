"""An order while it is being decided: its lines are counted here, and it is frozen once, at the end.

One `OrderDraft` lives for one decision, beside the `Movements` that carries the pieces. The order it
was made from stays as it is.

An open line is a list of counters in the order of `Line`'s fields: a `Line` for every change would cost each event
several times what the counting does.
"""

from collections.abc import Mapping

from domain.model import Line, Order
from domain.movements import Movements


class OrderDraft:
    """The facts of one order, open for change."""

    __slots__ = (
        "_lines",
        "_version",
        "cart_id",
        "expires_at",
        "order_id",
        "paid",
        "refused",
        "seen",
        "status",
        "user_id",
        "waiting",
    )

    def __init__(self, order: Order) -> None:
        (
            self.order_id,
            self.status,
            self.user_id,
            self.cart_id,
            lines,
            self.paid,
            self.refused,
            self.waiting,
            self.seen,
            self.expires_at,
            self._version,
        ) = order
        self._lines = {product_id: [*line] for product_id, line in lines.items()}

    def request(self, lines: Mapping[str, int]) -> None:
        """Take the lines of an order that had none."""
        self._lines = {product_id: [quantity, 0, 0, 0, 0, 0, 0] for product_id, quantity in lines.items()}

    def freeze(self) -> Order:
        """Return the order as it is now, one version on."""
        return Order(
            self.order_id,
            self.status,
            self.user_id,
            self.cart_id,
            # Half the time of Line(*line), and every event freezes an order.
            {product_id: tuple.__new__(Line, line) for product_id, line in self._lines.items()},
            self.paid,
            self.refused,
            self.waiting,
            self.seen,
            self.expires_at,
            self._version + 1,
        )

    # --- what there is

    def wanted(self) -> dict[str, int]:
        """Return the pieces that the customer still wants."""
        return {
            product_id: requested - cancelled
            for product_id, (requested, cancelled, _, _, _, _, _) in self._lines.items()
            if cancelled < requested
        }

    def held(self) -> dict[str, int]:
        """Return the pieces that are reserved now."""
        return {
            product_id: held
            for product_id, (_, _, reserved, released, deducted, _, _) in self._lines.items()
            if (held := reserved - released - deducted)
        }

    def returnable(self) -> dict[str, int]:
        """Return the pieces that left the shelf and can still come back."""
        return {
            product_id: returnable
            for product_id, (_, _, _, _, deducted, restocked, not_restocked) in self._lines.items()
            if (returnable := deducted - restocked - not_restocked)
        }

    def has(self, lines: Mapping[str, int], bound: str) -> bool:
        """Say whether every quantity is at most what the order's line has of `bound`."""
        return all(
            product_id in self._lines and quantity <= getattr(Line(*self._lines[product_id]), bound)
            for product_id, quantity in lines.items()
        )

    # --- what happens to it

    def see(self, identity: str) -> None:
        """Remember that a partial cancellation or a refund was judged."""
        self.seen = (*self.seen, identity)

    def reserve(self, moves: Movements, lines: Mapping[str, int]) -> None:
        """Hold pieces that are wanted."""
        moves.reserve(lines)
        self.count(lines, "reserved")

    def deduct(self, moves: Movements, lines: Mapping[str, int]) -> None:
        """Take pieces off the shelf that are held."""
        moves.deduct(lines)
        self.count(lines, "deducted")

    def release(self, moves: Movements, lines: Mapping[str, int]) -> None:
        """Let go of pieces that are held."""
        moves.release(lines)
        self.count(lines, "released")

    def restock(self, moves: Movements, lines: Mapping[str, int]) -> None:
        """Put pieces back on the shelf."""
        moves.restock(lines)
        self.count(lines, "restocked")

    def count_as_reversed(self) -> None:
        """Count what an order paid and cancelled would have taken and given back; nothing moves.

        Its refunds are then judged like those of an order that was deducted first.
        """
        wanted = self.wanted()
        for counter in ("cancelled", "reserved", "deducted", "restocked"):
            self.count(wanted, counter)

    def reverse_restock(self, moves: Movements, lines: Mapping[str, int]) -> None:
        """Take pieces off the shelf that the whole order's cancellation had put back."""
        moves.write_off(lines)
        self.count(lines, "cancelled", -1)
        self.count(lines, "restocked", -1)
        self.count(lines, "not_restocked")

    def count(self, lines: Mapping[str, int], counter: str, sign: int = 1) -> None:
        """Add `lines` to one counter, or with -1 subtract them from it."""
        position = Line._fields.index(counter)
        for product_id, quantity in lines.items():
            self._lines[product_id][position] += sign * quantity
