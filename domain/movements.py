"""The shelf: moves pieces of products, writes the ledger entry of each move, and judges the edges at the end.

One `Movements` lives for one decision. It is the only place where stock changes, so an entry's
`before` and `after` cannot disagree with the stock.
"""

from collections.abc import Mapping

from domain.model import (
    Cause,
    EntryType,
    LedgerEntry,
    Product,
    ReferenceType,
    StockAlert,
    StockStatus,
    judge,
)

# Makes a named tuple of all its fields in half the time of its own constructor; `move` is the innermost loop there is.
_new = tuple.__new__

# What becomes of a piece: the kind of entry, and what it adds to the stock on hand and to what is reserved.
_RESERVE = (EntryType.RESERVE, 0, 1)
_RELEASE = (EntryType.RELEASE, 0, -1)
_DEDUCT = (EntryType.OUT, -1, -1)
_RESTOCK = (EntryType.IN, 1, 0)
_WRITE_OFF = (EntryType.OUT, -1, 0)

_SEVERITY = {StockStatus.OK: 0, StockStatus.LOW: 1, StockStatus.OUT: 2}


class Movements:
    """Collects the moves of one decision over `products`, which stay as they are."""

    __slots__ = ("_known", "cause", "entries", "reason", "reference_id", "reference_type", "touched")

    def __init__(
        self,
        known: Mapping[str, Product],
        cause: Cause,
        reference_type: ReferenceType,
        reference_id: str,
        reason: str | None = None,
    ) -> None:
        self._known = known
        self.cause = cause
        self.reference_type = reference_type
        self.reference_id = reference_id
        self.reason = reason
        self.touched: dict[str, Product] = {}
        self.entries: list[LedgerEntry] = []

    def available(self, product_id: str) -> int:
        """Return the pieces that can be promised now; 0 for an unknown product."""
        product = self.touched.get(product_id) or self._known.get(product_id)
        return 0 if product is None else product.on_hand - product.reserved

    def reserve(self, lines: Mapping[str, int]) -> None:
        """Hold pieces that are on the shelf."""
        self.move(lines, *_RESERVE)

    def release(self, lines: Mapping[str, int]) -> None:
        """Let go of pieces that were held."""
        self.move(lines, *_RELEASE)

    def deduct(self, lines: Mapping[str, int]) -> None:
        """Take held pieces off the shelf."""
        self.move(lines, *_DEDUCT)

    def restock(self, lines: Mapping[str, int]) -> None:
        """Put pieces on the shelf."""
        self.move(lines, *_RESTOCK)

    def write_off(self, lines: Mapping[str, int]) -> None:
        """Take pieces off the shelf that nobody holds."""
        self.move(lines, *_WRITE_OFF)

    def move(
        self,
        lines: Mapping[str, int],
        kind: EntryType,
        on_hand_sign: int,
        reserved_sign: int,
        operator: str | None = None,
    ) -> None:
        """Change the stock by pieces of each product, and write their entries.

        The signs say what becomes of the pieces: 1 adds them to the stock on hand or to what is reserved, -1 takes
        them from it, 0 leaves it.
        """
        known, touched, write = self._known, self.touched, self.entries.append
        cause, reference_type, reference_id, reason = self.cause, self.reference_type, self.reference_id, self.reason
        for product_id, quantity in lines.items():
            before = touched.get(product_id)
            first = before is None
            if before is None:
                before = known[product_id]
            _, on_hand, reserved, threshold, alert, version, sequence = before
            sequence += 1
            on_hand_after = on_hand + on_hand_sign * quantity
            reserved_after = reserved + reserved_sign * quantity
            touched[product_id] = _new(
                Product, (product_id, on_hand_after, reserved_after, threshold, alert, version + first, sequence)
            )
            write(
                _new(
                    LedgerEntry,
                    (
                        product_id,
                        sequence,
                        kind,
                        quantity,
                        on_hand,
                        on_hand_after,
                        reserved,
                        reserved_after,
                        reference_type,
                        reference_id,
                        operator,
                        reason,
                        cause,
                    ),
                )
            )

    def replace(self, product: Product) -> None:
        """Take over a product whose stock stands but whose settings changed."""
        self.touched[product.product_id] = product

    def close(self) -> list[StockAlert]:
        """Judge every touched product on the net of all moves, once, and return the edges.

        An alert fires when a product gets worse than the worst told since its last recovery, so
        out -> low -> out tells nothing new; recovery (above the threshold) arms it again.
        """
        alerts: list[StockAlert] = []
        for product_id, product in self.touched.items():
            _, on_hand, reserved, threshold, alert, _, _ = product
            if not 0 <= reserved <= on_hand:
                message = f"a move would make the stock of {product_id} impossible: {product}"
                raise AssertionError(message)
            status = judge(on_hand - reserved, threshold)
            if status is alert or (status is not StockStatus.OK and _SEVERITY[status] < _SEVERITY[alert]):
                continue
            told = product._replace(last_alert_status=status)
            self.touched[product_id] = told
            alerts.append(StockAlert(status, told, self.cause))
        return alerts
