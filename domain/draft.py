"""An order while a decision about it is made: facts and counters are changed here, and frozen once, at the end.

One `OrderDraft` lives for one decision and owns the decision's `Movements`, so a counter and the stock behind it
change together. The order that the draft was made from is not modified.

An open line is a list of counters: building a `Line` for every change would cost several times what the counting does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from domain.build import new_lines, new_order
from domain.lines import (
    CANCELLED,
    DEDUCTED,
    NOT_RESTOCKED,
    REFUNDED,
    RELEASED,
    REQUESTED,
    RESERVED,
    RESTOCKED,
    RETURNED,
    LineCounter,
    OpenLine,
    cancellable_of,
    held_of,
    refundable_of,
    surplus_of,
    wanted_of,
)
from domain.model import Cause, Order, Product, ReferenceType
from domain.movements import Attribution, Movements

# Read once: looking a member up through its enum costs 0.1 us, and every event needs this one.
_ORDER = ReferenceType.ORDER


class OrderDraft:
    """The facts of one order, open for change, and the movements of the decision.

    `cause` is the event being decided; movements are attributed to it unless they name another.
    """

    __slots__ = (
        "_attribution",
        "_lines",
        "_version",
        "cart_id",
        "cause",
        "expires_at",
        "moves",
        "order_id",
        "paid",
        "refused",
        "seen",
        "status",
        "user_id",
        "waiting",
    )

    def __init__(self, order: Order, products: Mapping[str, Product], cause: Cause, reason: str | None = None) -> None:
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
        self._lines: dict[str, OpenLine] = {product_id: [*line] for product_id, line in lines.items()}
        self.cause = cause
        self.moves = Movements(products)
        self._attribution = Attribution(cause, _ORDER, self.order_id, reason)

    def request(self, lines: Mapping[str, int]) -> None:
        """Set the lines of an order that had none."""
        self._lines = {product_id: [quantity, 0, 0, 0, 0, 0, 0, 0, 0] for product_id, quantity in lines.items()}

    def freeze(self) -> Order:
        """Return the order as it is now, with the next version."""
        return new_order(
            self.order_id,
            self.status,
            self.user_id,
            self.cart_id,
            new_lines(self._lines),
            self.paid,
            self.refused,
            self.waiting,
            self.seen,
            self.expires_at,
            self._version + 1,
        )

    # --- units by product, products without any left out

    def wanted(self) -> dict[str, int]:
        """Return the units that the customer still wants, or keeps."""
        return {product_id: units for product_id, line in self._lines.items() if (units := wanted_of(line))}

    def held(self) -> dict[str, int]:
        """Return the units that are reserved now."""
        return {product_id: units for product_id, line in self._lines.items() if (units := held_of(line))}

    def surplus(self, lines: Iterable[str]) -> dict[str, int]:
        """Return the units of a paid order's `lines` that its facts put back on hand and that are not yet."""
        return {product_id: units for product_id in lines if (units := surplus_of(self._lines[product_id])) > 0}

    def excess(self, lines: Iterable[str]) -> dict[str, int]:
        """Return the units of a paid order's `lines` that are back on hand although its facts keep them off."""
        return {product_id: -units for product_id in lines if (units := surplus_of(self._lines[product_id])) < 0}

    # --- whether the order covers a request

    def is_cancellable(self, lines: Mapping[str, int]) -> bool:
        """Say whether a cancellation can name every unit of `lines`."""
        return self._covers(lines, cancellable_of)

    def is_refundable(self, lines: Mapping[str, int], *, returned: bool) -> bool:
        """Say whether a refund can name every unit of `lines`; `returned` units are among those the customer keeps."""
        return self._covers(lines, wanted_of if returned else refundable_of)

    def _covers(self, lines: Mapping[str, int], units_of: Callable[[Sequence[int]], int]) -> bool:
        return all(
            product_id in self._lines and quantity <= units_of(self._lines[product_id])
            for product_id, quantity in lines.items()
        )

    # --- changes

    def mark_seen(self, identity: str, content: str) -> None:
        """Remember that the fact with this business identity was judged, and the digest of what it said."""
        self.seen = {**self.seen, identity: content}

    def reserve(self, lines: Mapping[str, int]) -> None:
        """Reserve units that are wanted."""
        self.moves.reserve(lines, self._attribution)
        self._count(lines, RESERVED)

    def deduct(self, lines: Mapping[str, int]) -> None:
        """Take held units off the stock on hand."""
        self.moves.deduct(lines, self._attribution)
        self._count(lines, DEDUCTED)

    def release(self, lines: Mapping[str, int]) -> None:
        """Make held units available again."""
        self.moves.release(lines, self._attribution)
        self._count(lines, RELEASED)

    def restock(self, lines: Mapping[str, int], cause: Cause) -> None:
        """Put deducted units back on hand because of `cause`."""
        self.moves.receive(lines, self._attributed_to(cause))
        self._count(lines, RESTOCKED)

    def take_off_again(self, lines: Mapping[str, int], cause: Cause) -> None:
        """Take units off the stock on hand that had been put back or were never deducted, because of `cause`."""
        self.moves.write_off(lines, self._attributed_to(cause))
        self._count(lines, RESERVED)
        self._count(lines, DEDUCTED)

    def cancel(self, lines: Mapping[str, int]) -> None:
        """Count units as cancelled; no stock moves."""
        self._count(lines, CANCELLED)

    def cancel_whole(self) -> None:
        """Count every unit of a paid order as cancelled; no stock moves."""
        for line in self._lines.values():
            line[CANCELLED] = line[REQUESTED]

    def refund(self, lines: Mapping[str, int], *, restock: bool, returned: bool, sign: Literal[1, -1] = 1) -> None:
        """Count units as refunded, or with `sign` -1 take the count back; no stock moves."""
        self._count(lines, RETURNED if returned else REFUNDED, sign)
        if not restock:
            self._count(lines, NOT_RESTOCKED, sign)

    def _count(self, lines: Mapping[str, int], counter: LineCounter, sign: int = 1) -> None:
        for product_id, quantity in lines.items():
            self._lines[product_id][counter] += sign * quantity

    def _attributed_to(self, cause: Cause) -> Attribution:
        return self._attribution if cause is self.cause else self._attribution._replace(cause=cause)
