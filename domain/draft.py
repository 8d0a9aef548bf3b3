"""An order while a decision about it is made: facts and counters are changed here, and frozen once, at the end.

One `OrderDraft` lives for one decision and owns the decision's `Movements`, so a counter and the stock behind it
change together. The order that the draft was made from is not modified.
"""

from collections.abc import Mapping

from domain.build import new_order
from domain.lines import DEDUCTED, RELEASED, RESERVED, RESTOCKED
from domain.model import Cause, Order, Product, ReferenceType
from domain.movements import Attribution, Movements
from domain.open_lines import OpenLines

# Read once: looking a member up through its enum costs 0.1 us, and every event needs this one.
_ORDER = ReferenceType.ORDER


class OrderDraft:
    """The facts of one order, open for change, and the movements of the decision.

    `cause` is the event being decided; movements are attributed to it unless they name another.
    """

    __slots__ = (
        "_attribution",
        "_version",
        "cart_id",
        "cause",
        "expires_at",
        "lines",
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
        self.lines = OpenLines(lines)
        self.cause = cause
        self.moves = Movements(products)
        self._attribution = Attribution(cause, _ORDER, self.order_id, reason)

    def freeze(self) -> Order:
        """Return the order as it is now, with the next version."""
        return new_order(
            self.order_id,
            self.status,
            self.user_id,
            self.cart_id,
            self.lines.freeze(),
            self.paid,
            self.refused,
            self.waiting,
            self.seen,
            self.expires_at,
            self._version + 1,
        )

    def mark_seen(self, identity: str, content: str) -> None:
        """Remember that the fact with this business identity was judged, and the digest of what it said."""
        self.seen = {**self.seen, identity: content}

    def reserve(self, lines: Mapping[str, int]) -> None:
        """Reserve units that are wanted."""
        self.moves.reserve(lines, self._attribution)
        self.lines.count(lines, RESERVED)

    def deduct(self, lines: Mapping[str, int]) -> None:
        """Take held units off the stock on hand."""
        self.moves.deduct(lines, self._attribution)
        self.lines.count(lines, DEDUCTED)

    def release(self, lines: Mapping[str, int]) -> None:
        """Make held units available again."""
        self.moves.release(lines, self._attribution)
        self.lines.count(lines, RELEASED)

    def restock(self, lines: Mapping[str, int], cause: Cause) -> None:
        """Put deducted units back on hand because of `cause`."""
        self.moves.receive(lines, self._attributed_to(cause))
        self.lines.count(lines, RESTOCKED)

    def take_off_again(self, lines: Mapping[str, int], cause: Cause) -> None:
        """Take units off the stock on hand that had been put back or were never deducted, because of `cause`."""
        self.moves.write_off(lines, self._attributed_to(cause))
        self.lines.count(lines, RESERVED)
        self.lines.count(lines, DEDUCTED)

    def _attributed_to(self, cause: Cause) -> Attribution:
        return self._attribution if cause is self.cause else self._attribution._replace(cause=cause)
