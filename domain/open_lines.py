"""The lines of an order while a decision about it is made: counters that are changed in place, and frozen at the end.

An open line is a list of counters: building a `Line` for every change would cost several times what the counting does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from domain.build import new_lines
from domain.lines import (
    CANCELLED,
    NOT_RESTOCKED,
    REFUNDED,
    REQUESTED,
    RETURNED,
    Line,
    LineCounter,
    OpenLine,
    cancellable_of,
    held_of,
    refundable_of,
    surplus_of,
    wanted_of,
)


class OpenLines:
    """The counters of each product of an order; the lines that they were made from are not modified."""

    __slots__ = ("_lines",)

    def __init__(self, lines: Mapping[str, Line]) -> None:
        self._lines: dict[str, OpenLine] = {product_id: [*line] for product_id, line in lines.items()}

    def request(self, lines: Mapping[str, int]) -> None:
        """Set the lines of an order that had none."""
        self._lines = {product_id: [quantity, 0, 0, 0, 0, 0, 0, 0, 0] for product_id, quantity in lines.items()}

    def freeze(self) -> dict[str, Line]:
        """Return the lines as they are now."""
        return new_lines(self._lines)

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

    # --- what facts name; no stock moves

    def cancel(self, lines: Mapping[str, int]) -> None:
        """Count units as cancelled."""
        self.count(lines, CANCELLED)

    def cancel_whole(self) -> None:
        """Count every unit of a paid order as cancelled."""
        for line in self._lines.values():
            line[CANCELLED] = line[REQUESTED]

    def refund(self, lines: Mapping[str, int], *, restock: bool, returned: bool, sign: Literal[1, -1] = 1) -> None:
        """Count units as refunded, or with `sign` -1 take the count back."""
        self.count(lines, RETURNED if returned else REFUNDED, sign)
        if not restock:
            self.count(lines, NOT_RESTOCKED, sign)

    def count(self, lines: Mapping[str, int], counter: LineCounter, sign: Literal[1, -1] = 1) -> None:
        """Add units to a counter, or with `sign` -1 take them off."""
        for product_id, quantity in lines.items():
            self._lines[product_id][counter] += sign * quantity
