"""Order lines: the counters of one product of an order, and their arithmetic.

The functions take a `Line` and the open line of an `OrderDraft` alike: both are the seven counters in the order of
`LineCounter`.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

# The positions of a line's counters. An enum's member as an index would double the cost of every count.
LineCounter = Literal[0, 1, 2, 3, 4, 5, 6]
REQUESTED: Final = 0
CANCELLED: Final = 1
RESERVED: Final = 2
RELEASED: Final = 3
DEDUCTED: Final = 4
RESTOCKED: Final = 5
NOT_RESTOCKED: Final = 6


OpenLine = list[int]
"""The line of an order that is being changed: the counters of a `Line`, in the order of its fields."""


class Line(NamedTuple):
    """One product of an order, as counters of units that only the rules change; none ever goes below 0.

    `cancelled` are units cancelled before they were deducted, or restocked because the whole order was cancelled
    afterwards. `not_restocked` are units that were refunded and do not go back on hand.
    """

    requested: int
    cancelled: int = 0
    reserved: int = 0
    released: int = 0
    deducted: int = 0
    restocked: int = 0
    not_restocked: int = 0

    @property
    def held(self) -> int:
        """Units that are reserved now."""
        return held_of(self)


def wanted_of(line: Sequence[int]) -> int:
    """Return the units that the customer still wants."""
    requested, cancelled, _, _, _, _, _ = line
    return requested - cancelled


def held_of(line: Sequence[int]) -> int:
    """Return the units that are reserved now."""
    _, _, reserved, released, deducted, _, _ = line
    return reserved - released - deducted


def returnable_of(line: Sequence[int]) -> int:
    """Return the deducted units that can still be restocked."""
    _, _, _, _, deducted, restocked, not_restocked = line
    return deducted - restocked - not_restocked


def reversed_of(line: Sequence[int]) -> int:
    """Return the units that the whole order's cancellation put back on hand."""
    requested, cancelled, _, _, deducted, _, _ = line
    return deducted - (requested - cancelled)


def is_possible(line: Sequence[int]) -> bool:
    """Say whether the counters can be true: none is negative, and no unit was given back that had not been taken.

    `cancelled <= requested`, `released + deducted <= reserved`, `restocked + not_restocked <= deducted`.
    """
    return min(line) >= 0 and wanted_of(line) >= 0 and held_of(line) >= 0 and returnable_of(line) >= 0
