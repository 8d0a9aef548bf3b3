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

    def product(self, product_id: str) -> Product | None:
        """Return the product as the moves so far have left it."""
        return self.touched.get(product_id) or self._known.get(product_id)

    def available(self, product_id: str) -> int:
        """Return the pieces that can be promised now; 0 for an unknown product."""
        product = self.product(product_id)
        return 0 if product is None else product.on_hand - product.reserved

    def reserve(self, product_id: str, quantity: int) -> None:
        """Hold pieces that are on the shelf."""
        self.move(product_id, EntryType.RESERVE, quantity, 0, quantity)

    def release(self, product_id: str, quantity: int) -> None:
        """Let go of pieces that were held."""
        self.move(product_id, EntryType.RELEASE, quantity, 0, -quantity)

    def deduct(self, product_id: str, quantity: int) -> None:
        """Take held pieces off the shelf."""
        self.move(product_id, EntryType.OUT, quantity, -quantity, -quantity)

    def restock(self, product_id: str, quantity: int) -> None:
        """Put pieces on the shelf."""
        self.move(product_id, EntryType.IN, quantity, quantity, 0)

    def write_off(self, product_id: str, quantity: int) -> None:
        """Take pieces off the shelf that nobody holds."""
        self.move(product_id, EntryType.OUT, quantity, -quantity, 0)

    def move(
        self,
        product_id: str,
        kind: EntryType,
        quantity: int,
        on_hand_change: int,
        reserved_change: int,
        operator: str | None = None,
    ) -> None:
        """Change the stock and write the entry."""
        before = self.touched.get(product_id)
        first = before is None
        if before is None:
            before = self._known[product_id]
        _, on_hand, reserved, threshold, alert, version, sequence = before
        sequence += 1
        on_hand_after = on_hand + on_hand_change
        reserved_after = reserved + reserved_change
        self.touched[product_id] = Product(
            product_id, on_hand_after, reserved_after, threshold, alert, version + first, sequence
        )
        self.entries.append(
            LedgerEntry(
                product_id,
                sequence,
                kind,
                quantity,
                on_hand,
                on_hand_after,
                reserved,
                reserved_after,
                self.reference_type,
                self.reference_id,
                operator,
                self.reason,
                self.cause,
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
            on_hand, reserved, alert = product.on_hand, product.reserved, product.alert
            if not 0 <= reserved <= on_hand:
                message = f"a move would make the stock of {product_id} impossible: {product}"
                raise AssertionError(message)
            status = judge(on_hand - reserved, product.threshold)
            if status is alert or (status is not StockStatus.OK and _SEVERITY[status] < _SEVERITY[alert]):
                continue
            told = product._replace(alert=status)
            self.touched[product_id] = told
            alerts.append(StockAlert(status, told, self.cause))
        return alerts
