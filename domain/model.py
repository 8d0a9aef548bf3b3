"""What the rules speak of: products, orders, carts, ledger entries, outcomes and decisions.

All values are immutable. Those that every event makes are named tuples, because building one costs a quarter of a
frozen dataclass.

Quantities are integers of pieces; times are aware UTC datetimes; ids are non-empty strings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Why something was refused; where several apply, the first in this order is given.

    First whether the thing is known, then whether the request knows its newest state, then whether the order can
    take the event at all, then whether the numbers fit what is recorded, and last whether there is stock.
    """

    UNKNOWN_PRODUCT = "unknown_product"
    STALE_VERSION = "stale_version"
    ORDER_REJECTED = "order_rejected"
    ORDER_CANCELLED = "order_cancelled"
    RESERVATION_EXPIRED = "reservation_expired"
    CANCELLATION_EXCEEDS_ORDER = "cancellation_exceeds_order"
    REFUND_EXCEEDS_DEDUCTED = "refund_exceeds_deducted"
    BELOW_RESERVED = "below_reserved"
    INSUFFICIENT_STOCK = "insufficient_stock"


class StockStatus(StrEnum):
    """How much of a product is left: `ok`, `low` (at or below its threshold) or `out`."""

    OK = "ok"
    LOW = "low"
    OUT = "out"


class OrderStatus(StrEnum):
    """Where an order stands; `pending` means that facts came before the order itself."""

    PENDING = "pending"
    RESERVED = "reserved"
    REJECTED = "rejected"
    DEDUCTED = "deducted"
    EXPIRED = "expired"
    RELEASED = "released"
    RESTOCKED = "restocked"


class CartStatus(StrEnum):
    """Where a cart stands; only an `active` one holds stock."""

    ACTIVE = "active"
    EMPTIED = "emptied"
    CONVERTED = "converted"
    EXPIRED = "expired"


class EntryType(StrEnum):
    """The kinds of ledger entry."""

    IN = "IN"
    OUT = "OUT"
    RESERVE = "RESERVE"
    RELEASE = "RELEASE"
    ADJUST = "ADJUST"


class ReferenceType(StrEnum):
    """What a ledger entry was made for."""

    ORDER = "ORDER"
    CART = "CART"
    MANUAL = "MANUAL"
    IMPORT = "IMPORT"


class LatePaymentPolicy(StrEnum):
    """What a payment for an expired reservation does: try to reserve again, or report a shortfall."""

    RESERVE_AGAIN = "reserve_again"
    SHORTFALL = "shortfall"


class Disposition(StrEnum):
    """What became of a command."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    PARKED = "parked"
    CONFLICT = "conflict"


class Operation(StrEnum):
    """What an adjustment does to the stock on hand."""

    ADD = "ADD"
    SUBTRACT = "SUBTRACT"
    SET = "SET"


class Cause(NamedTuple):
    """The event behind a change: its identity (source, event_id) and its time.

    `traceparent` names the trace it is part of. The rules do not look at it; what they tell of this cause carries it.
    """

    source: str
    event_id: str
    occurred_at: datetime
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """The shop's settings that decisions depend on.

    `parked_event_ttl` is how long a fact may wait for its order before its event is dead-lettered.
    """

    cart_ttl: timedelta = timedelta(minutes=30)
    order_ttl: timedelta = timedelta(minutes=15)
    default_threshold: int = 10
    late_payment: LatePaymentPolicy = LatePaymentPolicy.RESERVE_AGAIN
    parked_event_ttl: timedelta = timedelta(hours=24)


class Product(NamedTuple):
    """A product's stock. `alert` is the worst status told since the last recovery."""

    product_id: str
    on_hand: int
    reserved: int
    threshold: int
    last_alert_status: StockStatus
    version: int
    sequence: int

    @property
    def available(self) -> int:
        """What can still be promised."""
        return self.on_hand - self.reserved

    @property
    def status(self) -> StockStatus:
        """How much is left, judged against the threshold."""
        return judge(self.on_hand - self.reserved, self.threshold)


class Line(NamedTuple):
    """One product of an order, as counters that only the rules move.

    `released + deducted <= reserved`, `restocked + not_restocked <= deducted`, `cancelled <= requested`.
    `cancelled` are pieces cancelled before they were deducted, or put back because the whole order was
    cancelled afterwards. `not_restocked` are pieces that were refunded and do not come back to the shelf.
    """

    requested: int
    cancelled: int = 0
    reserved: int = 0
    released: int = 0
    deducted: int = 0
    restocked: int = 0
    not_restocked: int = 0

    @property
    def wanted(self) -> int:
        """What the customer still wants of it."""
        return self.requested - self.cancelled

    @property
    def held(self) -> int:
        """What is reserved for it now."""
        return self.reserved - self.released - self.deducted

    @property
    def returnable(self) -> int:
        """What left the shelf and can still come back."""
        return self.deducted - self.restocked - self.not_restocked

    @property
    def reversed(self) -> int:
        """What the whole order's cancellation put back; a refund without restock still finds it there."""
        return self.deducted - self.wanted


class FactKind(StrEnum):
    """The facts about an order that can come before the order can take them."""

    PAID = "paid"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"


class Fact(NamedTuple):
    """A fact that waits. `lines` is None for a payment or a cancellation of the whole order."""

    kind: FactKind
    cause: Cause
    lines: Mapping[str, int] | None = None
    refund_id: str | None = None
    restock: bool = True


class Order(NamedTuple):
    """Everything known about an order.

    `seen` holds the business identities of partial cancellations and refunds that were judged, so
    that they count once however long ago the inbox forgot their event ids.
    """

    order_id: str
    status: OrderStatus = OrderStatus.PENDING
    user_id: str | None = None
    cart_id: str | None = None
    lines: Mapping[str, Line] = {}
    paid: bool = False
    refused: bool = False
    waiting: tuple[Fact, ...] = ()
    seen: tuple[str, ...] = ()
    expires_at: datetime | None = None
    version: int = 0


class Cart(NamedTuple):
    """A cart and what it holds: pieces by product. `as_of` is the time of the newest snapshot applied."""

    cart_id: str
    status: CartStatus
    user_id: str | None
    held: Mapping[str, int]
    snapshot_version: int | None
    as_of: datetime | None
    converted_at: datetime | None
    expires_at: datetime | None
    version: int = 0


class LedgerEntry(NamedTuple):
    """One movement of one product; `sequence` counts 1, 2, 3 ... per product without holes."""

    product_id: str
    sequence: int
    type: EntryType
    quantity: int
    on_hand_before: int
    on_hand_after: int
    reserved_before: int
    reserved_after: int
    reference_type: ReferenceType
    reference_id: str
    operator: str | None
    reason: str | None
    cause: Cause


class OutcomeKind(StrEnum):
    """What `inventory.reservations` tells, each under the type `inventory.reservation.<kind>`."""

    RESERVED = "reserved"
    REJECTED = "rejected"
    DEDUCTED = "deducted"
    RELEASED = "released"
    EXPIRED = "expired"
    SHORTFALL = "shortfall"
    RESTOCKED = "restocked"
    CART_SHORTAGE = "cart_shortage"


class Shortage(NamedTuple):
    """A line that could not be served in full."""

    product_id: str
    requested: int
    available: int
    reason: Reason


class ReservationOutcome(NamedTuple):
    """What became of an order's or a cart's stock; `lines` are the pieces that the kind speaks of."""

    kind: OutcomeKind
    reference_type: ReferenceType
    reference_id: str
    user_id: str | None
    lines: Mapping[str, int]
    reason: Reason | None
    shortages: tuple[Shortage, ...]
    cause: Cause


class StockAlert(NamedTuple):
    """An edge of a product's stock status; `severity` is `ok` when the stock recovered."""

    severity: StockStatus
    product: Product
    cause: Cause


Outcome = ReservationOutcome | StockAlert


class Settled(NamedTuple):
    """A fact that had waited and has now been judged."""

    cause: Cause
    disposition: Disposition
    reason: Reason | None = None


class Decision(NamedTuple):
    """What a command means: the new values of what it touches, and what is told about it.

    `short` names the products whose lack of stock shaped the decision: expired holds on them could
    change it. `settled` are facts that no longer wait.
    """

    disposition: Disposition
    reason: Reason | None = None
    message: str | None = None
    products: Mapping[str, Product] = {}
    order: Order | None = None
    cart: Cart | None = None
    entries: tuple[LedgerEntry, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    settled: tuple[Settled, ...] = ()
    short: tuple[str, ...] = ()


class State(NamedTuple):
    """The part of the world that a batch works on; what is not in a map does not exist."""

    products: dict[str, Product]
    orders: dict[str, Order]
    carts: dict[str, Cart]


# Looked up once: through an enum's class a member costs 0.1 us each time, and every move of stock is judged.
_OK = StockStatus.OK


def judge(available: int, threshold: int) -> StockStatus:
    """Say how much `available` is against `threshold`."""
    if available > threshold and available > 0:
        return _OK
    return StockStatus.LOW if available > 0 else StockStatus.OUT


def check_product(product: Product) -> None:
    """Raise AssertionError unless `0 <= reserved <= on_hand`."""
    if not 0 <= product.reserved <= product.on_hand:
        message = f"stock of {product.product_id} is impossible: {product}"
        raise AssertionError(message)


def check_order(order: Order) -> None:
    """Raise AssertionError unless every line's counters are possible."""
    for product_id, line in order.lines.items():
        requested, cancelled, reserved, released, deducted, restocked, not_restocked = line
        if not (
            min(line) >= 0
            and cancelled <= requested
            and released + deducted <= reserved
            and restocked + not_restocked <= deducted
        ):
            message = f"order {order.order_id}, line {product_id} is impossible: {line}"
            raise AssertionError(message)
