"""Order lines: the counters of one product of an order, and their arithmetic.

The functions take a `Line` and the open line of an `OrderDraft` alike: both are the nine counters in the order of
`LineCounter`.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

# The positions of a line's counters. An enum's member as an index would double the cost of every count.
LineCounter = Literal[0, 1, 2, 3, 4, 5, 6, 7, 8]
REQUESTED: Final = 0
CANCELLED: Final = 1
RESERVED: Final = 2
RELEASED: Final = 3
DEDUCTED: Final = 4
RESTOCKED: Final = 5
NOT_RESTOCKED: Final = 6
REFUNDED: Final = 7
RETURNED: Final = 8


OpenLine = list[int]
"""The line of an order that is being changed: the counters of a `Line`, in the order of its fields."""


class Line(NamedTuple):
    """One product of an order, as counters of units that only the rules change; none ever goes below 0.

    `reserved`, `released`, `deducted` and `restocked` count movements. The others count what facts name: `cancelled`
    by cancellations (all units once an order that was paid is cancelled whole), `refunded` by refunds, `returned` by
    refunds of delivered units that came back, `not_restocked` by refunds of both kinds that put nothing back on hand.
    """

    requested: int
    cancelled: int = 0
    reserved: int = 0
    released: int = 0
    deducted: int = 0
    restocked: int = 0
    not_restocked: int = 0
    refunded: int = 0
    returned: int = 0

    @property
    def held(self) -> int:
        """Units that are reserved now."""
        return held_of(self)


def wanted_of(line: Sequence[int]) -> int:
    """Return the units that the customer still wants, or keeps.

    A refund may be the money of cancelled units, so of these two only the larger counts. Returned units are others.
    """
    requested, cancelled, _, _, _, _, _, refunded, returned = line
    given_up = max(cancelled, refunded) + returned
    return max(0, requested - given_up)


def held_of(line: Sequence[int]) -> int:
    """Return the units that are reserved now."""
    return line[RESERVED] - line[RELEASED] - line[DEDUCTED]


def cancellable_of(line: Sequence[int]) -> int:
    """Return the units that a cancellation can still name."""
    return line[REQUESTED] - line[CANCELLED] - line[RETURNED]


def refundable_of(line: Sequence[int]) -> int:
    """Return the units that a refund can still name, be they cancelled or not."""
    return line[REQUESTED] - line[REFUNDED] - line[RETURNED]


def surplus_of(line: Sequence[int]) -> int:
    """Return the units of a paid line that its facts put back on hand and that are not yet; negative: too many are.

    Off the stock on hand stay the units that the customer keeps and those that were refunded without restock.
    """
    return line[DEDUCTED] - line[RESTOCKED] - wanted_of(line) - line[NOT_RESTOCKED]


def is_possible(line: Sequence[int]) -> bool:
    """Say whether the counters can be true: none is negative, and no unit was given back that had not been taken.

    `released + deducted <= reserved`, `restocked + not_restocked <= deducted`; facts name no more
    units than were requested.
    """
    requested, cancelled, _, _, deducted, restocked, not_restocked, refunded, returned = line
    return (
        min(line) >= 0
        and held_of(line) >= 0
        and restocked + not_restocked <= deducted
        and cancelled <= requested
        and refunded + returned <= requested
        and not_restocked <= refunded + returned
    )
