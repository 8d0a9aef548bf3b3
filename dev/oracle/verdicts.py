"""What an event must lead to: a disposition, and what must be published."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Lines = Mapping[str, int]


@dataclass(frozen=True)
class Short:
    """A line that could not be served in full: units requested, units available for it, and the reason."""

    product_id: str
    requested: int
    available: int
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What must be published on `inventory.reservations` about an order or a cart."""

    kind: str
    owner: tuple[str, str]
    cause: str
    lines: tuple[tuple[str, int], ...] = ()
    reason: str | None = None
    short: tuple[Short, ...] = ()


@dataclass(frozen=True)
class Edge:
    """What must be published on `inventory.low_stock` (`low`, `out`) or `inventory.stock_recovered` (`ok`)."""

    severity: str
    product_id: str
    on_hand: int
    reserved: int
    threshold: int
    cause: str


@dataclass
class Verdict:
    """What one event must lead to.

    - `back_in_stock`: products that must be published on that topic, because available went from 0 to more.
    - `resolved`: the waiting facts that the event resolved, each as (event id, disposition, reason).
    - `expired`: the verdicts on the due holds that expired before the event was judged.
    - `short_of`: products of which more stock would have changed the answer.
    """

    disposition: str
    reason: str | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    back_in_stock: list[str] = field(default_factory=list)
    resolved: list[tuple[str, str, str | None]] = field(default_factory=list)
    expired: list["Verdict"] = field(default_factory=list)
    short_of: set[str] = field(default_factory=set)


def about_order(
    kind: str, order_id: str, cause: str, lines: Lines, reason: str | None = None, short: list[Short] | None = None
) -> Outcome:
    """Return the outcome to publish about an order."""
    return Outcome(kind, ("ORDER", order_id), cause, _sorted(lines), reason, tuple(short or ()))


def about_cart(
    kind: str, cart_id: str, cause: str, lines: Lines, reason: str | None = None, short: list[Short] | None = None
) -> Outcome:
    """Return the outcome to publish about a cart."""
    return Outcome(kind, ("CART", cart_id), cause, _sorted(lines), reason, tuple(short or ()))


def unknown_first(short: list[Short]) -> list[Short]:
    """Sort the shortages of unknown products to the front: the first shortage is the reason of a refusal."""
    return sorted(short, key=lambda line: line.reason != "unknown_product")


def short_of_stock(short: list[Short]) -> set[str]:
    """Return the products of which more stock would have helped."""
    return {line.product_id for line in short if line.reason == "insufficient_stock"}


def _sorted(lines: Lines) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((p, n) for p, n in lines.items() if n))
