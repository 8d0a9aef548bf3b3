"""Stock movements: change what is on hand and reserved, write the ledger entry of each change, and judge the edges.

One `Movements` lives for one decision. It is the only place where stock changes, so the `before` and `after` of an
entry always agree with the stock.
"""

from collections.abc import Mapping
from typing import NamedTuple

from domain.build import new_entry, new_product
from domain.model import (
    BackInStock,
    Cause,
    EntryType,
    LedgerEntry,
    Product,
    ReferenceType,
    StockAlert,
    StockStatus,
    judge,
)

# The type of the entry, and the factors by which a quantity changes on hand and reserved.
_RESERVE = (EntryType.RESERVE, 0, 1)
_RELEASE = (EntryType.RELEASE, 0, -1)
_DEDUCT = (EntryType.OUT, -1, -1)
_RECEIVE = (EntryType.IN, 1, 0)
_WRITE_OFF = (EntryType.OUT, -1, 0)
_INCREASE = (EntryType.ADJUST, 1, 0)
_DECREASE = (EntryType.ADJUST, -1, 0)

_SEVERITY = {StockStatus.OK: 0, StockStatus.LOW: 1, StockStatus.OUT: 2}


class Attribution(NamedTuple):
    """What an entry is attributed to: the event that caused it, what it was made for, and who gave which reason."""

    cause: Cause
    reference_type: ReferenceType
    reference_id: str
    reason: str | None = None
    operator: str | None = None


class Movements:
    """The movements of one decision over `known` products, which are not modified.

    `touched` are the products as they are after the movements; `entries` are the ledger entries in order.
    """

    __slots__ = ("_known", "entries", "touched")

    def __init__(self, known: Mapping[str, Product]) -> None:
        self._known = known
        self.touched: dict[str, Product] = {}
        self.entries: list[LedgerEntry] = []

    def available(self, product_id: str) -> int:
        """Return the units that can be promised now; 0 for an unknown product."""
        product = self.touched.get(product_id) or self._known.get(product_id)
        return 0 if product is None else product.on_hand - product.reserved

    def reserve(self, lines: Mapping[str, int], attribution: Attribution) -> None:
        """Reserve available units."""
        self._move(lines, _RESERVE, attribution)

    def release(self, lines: Mapping[str, int], attribution: Attribution) -> None:
        """Make reserved units available again."""
        self._move(lines, _RELEASE, attribution)

    def deduct(self, lines: Mapping[str, int], attribution: Attribution) -> None:
        """Take reserved units off the stock on hand."""
        self._move(lines, _DEDUCT, attribution)

    def receive(self, lines: Mapping[str, int], attribution: Attribution) -> None:
        """Add units to the stock on hand."""
        self._move(lines, _RECEIVE, attribution)

    def write_off(self, lines: Mapping[str, int], attribution: Attribution) -> None:
        """Take available units off the stock on hand."""
        self._move(lines, _WRITE_OFF, attribution)

    def adjust(self, product_id: str, change: int, attribution: Attribution) -> None:
        """Correct the stock on hand by `change` units, which is not 0."""
        self._move({product_id: abs(change)}, _INCREASE if change > 0 else _DECREASE, attribution)

    def replace(self, product: Product) -> None:
        """Take over a product whose settings changed and whose stock did not."""
        self.touched[product.product_id] = product

    def close(self, cause: Cause) -> list[StockAlert | BackInStock]:
        """Judge every touched product on the net of all movements, once, and return the edges as caused by `cause`.

        A product is reported when its status is worse than the worst reported since its last recovery, so
        out -> low -> out reports nothing new. Recovery (above the threshold) is reported too, and re-arms the alert.
        Back in stock is reported whenever available goes from 0 to more, below the threshold as well; a product that
        this decision creates was never out of stock.
        Raises AssertionError unless `0 <= reserved <= on_hand` for every touched product.
        """
        alerts: list[StockAlert | BackInStock] = []
        for product_id, product in self.touched.items():
            _, on_hand, reserved, threshold, last_alert_status, _, _ = product
            if not 0 <= reserved <= on_hand:
                message = f"a movement would make the stock of {product_id} impossible: {product}"
                raise AssertionError(message)
            status = judge(on_hand - reserved, threshold)
            if status is last_alert_status:
                continue
            reported = product
            if status is StockStatus.OK or _SEVERITY[status] > _SEVERITY[last_alert_status]:
                reported = product._replace(last_alert_status=status)
                self.touched[product_id] = reported
                alerts.append(StockAlert(status, reported, cause))
            # Running out is always reported: where the last alert was not `out`, some units were available, or the
            # product is new.
            if last_alert_status is StockStatus.OUT and self._known[product_id].available == 0:
                alerts.append(BackInStock(reported, cause))
        return alerts

    def _move(self, lines: Mapping[str, int], movement: tuple[EntryType, int, int], attribution: Attribution) -> None:
        """Apply one movement to each line and write its entry; a product's version grows once per decision."""
        known, touched, write = self._known, self.touched, self.entries.append
        kind, on_hand_sign, reserved_sign = movement
        cause, reference_type, reference_id, reason, operator = attribution
        for product_id, quantity in lines.items():
            before = touched.get(product_id)
            first = before is None
            if before is None:
                before = known[product_id]
            _, on_hand, reserved, threshold, last_alert_status, version, sequence = before
            sequence += 1
            on_hand_after = on_hand + on_hand_sign * quantity
            reserved_after = reserved + reserved_sign * quantity
            touched[product_id] = new_product(
                product_id, on_hand_after, reserved_after, threshold, last_alert_status, version + first, sequence
            )
            write(
                new_entry(
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
                )
            )
