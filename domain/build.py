"""Build the named tuples of the hot path in half the time of their own constructors.

`tuple.__new__` takes the fields by position and no type checker looks at them, so it is called in this module alone:
the functions are typed, and `tests/unit/test_domain_build.py` compares what they build with the constructors.
"""

from collections.abc import Mapping
from datetime import datetime

from domain.lines import Line, OpenLine
from domain.model import (
    Cause,
    EntryType,
    Fact,
    LedgerEntry,
    Order,
    OrderStatus,
    Product,
    ReferenceType,
    StockStatus,
)

_new = tuple.__new__


def new_product(  # noqa: PLR0913, PLR0917 - one parameter a field, as fast as can be
    product_id: str,
    on_hand: int,
    reserved: int,
    threshold: int,
    last_alert_status: StockStatus,
    version: int,
    sequence: int,
) -> Product:
    """Return a `Product`."""
    return _new(Product, (product_id, on_hand, reserved, threshold, last_alert_status, version, sequence))


def new_entry(  # noqa: PLR0913, PLR0917 - one parameter a field, as fast as can be
    product_id: str,
    sequence: int,
    type_: EntryType,
    quantity: int,
    on_hand_before: int,
    on_hand_after: int,
    reserved_before: int,
    reserved_after: int,
    reference_type: ReferenceType,
    reference_id: str,
    operator: str | None,
    reason: str | None,
    cause: Cause,
) -> LedgerEntry:
    """Return a `LedgerEntry`."""
    return _new(
        LedgerEntry,
        (
            product_id,
            sequence,
            type_,
            quantity,
            on_hand_before,
            on_hand_after,
            reserved_before,
            reserved_after,
            reference_type,
            reference_id,
            operator,
            reason,
            cause,
        ),
    )


def new_order(  # noqa: PLR0913, PLR0917 - one parameter a field, as fast as can be
    order_id: str,
    status: OrderStatus,
    user_id: str | None,
    cart_id: str | None,
    lines: Mapping[str, Line],
    paid: bool,  # noqa: FBT001 - same reason
    refused: bool,  # noqa: FBT001 - same reason
    waiting: tuple[Fact, ...],
    seen: Mapping[str, str],
    expires_at: datetime | None,
    version: int,
) -> Order:
    """Return an `Order`."""
    return _new(Order, (order_id, status, user_id, cart_id, lines, paid, refused, waiting, seen, expires_at, version))


def new_lines(counters: Mapping[str, OpenLine]) -> dict[str, Line]:
    """Return the `Line` of each product's open line."""
    return {product_id: _new(Line, line) for product_id, line in counters.items()}
