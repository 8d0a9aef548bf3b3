"""The values that the rules work on: products, orders, carts, ledger entries, outcomes and decisions.

All values are immutable. Those built for every event are named tuples, because building one costs a quarter of what a
frozen dataclass costs.

Quantities are whole units; times are aware UTC datetimes; ids are non-empty strings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from domain.lines import Line, is_possible


class Reason(StrEnum):
    """Why a command was refused. Where several reasons apply, the first in this order is given.

    The order of the checks: does the product exist, is the request up to date, is the order in a state that allows
    the event, do the quantities fit what is recorded, and last, is there enough stock.
    """

    UNKNOWN_ORDER = "unknown_order"
    UNKNOWN_CART = "unknown_cart"
    UNKNOWN_PRODUCT = "unknown_product"
    STALE_VERSION = "stale_version"
    ALREADY_PAID = "already_paid"
    ORDER_REJECTED = "order_rejected"
    ORDER_CANCELLED = "order_cancelled"
    ORDER_PAID = "order_paid"
    RESERVATION_EXPIRED = "reservation_expired"
    CANCELLATION_EXCEEDS_ORDER = "cancellation_exceeds_order"
    REFUND_EXCEEDS_DEDUCTED = "refund_exceeds_deducted"
    BELOW_RESERVED = "below_reserved"
    ADJUSTMENT_REFUSED = "adjustment_refused"
    INSUFFICIENT_STOCK = "insufficient_stock"


class StockStatus(StrEnum):
    """How much of a product is available: `ok`, `low` (at or below its threshold) or `out` (none)."""

    OK = "ok"
    LOW = "low"
    OUT = "out"


class OrderStatus(StrEnum):
    """The state of an order; `pending` means that facts arrived before the order itself."""

    PENDING = "pending"
    RESERVED = "reserved"
    REJECTED = "rejected"
    DEDUCTED = "deducted"
    EXPIRED = "expired"
    RELEASED = "released"
    RESTOCKED = "restocked"


class CartStatus(StrEnum):
    """The state of a cart; only an `active` one holds stock."""

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
    """What kind of thing a ledger entry was made for."""

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

    `traceparent` names the trace that the event is part of. The rules ignore it; outcomes of this cause carry it on.
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
    """A product's stock in units.

    `last_alert_status` is the worst status reported since the last recovery. `version` grows by one with every change,
    `sequence` is the number of the product's last ledger entry.
    """

    product_id: str
    on_hand: int
    reserved: int
    threshold: int
    last_alert_status: StockStatus
    version: int
    sequence: int

    @property
    def available(self) -> int:
        """Units that can still be promised."""
        return self.on_hand - self.reserved

    @property
    def status(self) -> StockStatus:
        """The stock status, judged from available and threshold."""
        return judge(self.available, self.threshold)


class FactKind(StrEnum):
    """The facts about an order that can arrive before they can be applied."""

    PAID = "paid"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"


class Fact(NamedTuple):
    """A fact about an order, as it waits.

    `lines` is None for a payment and for a cancellation of the whole order. `business_id` is the refund's id, or the
    payment's or partial cancellation's if it has one. `restock` and `returned` are those of a refund.
    """

    kind: FactKind
    cause: Cause
    lines: Mapping[str, int] | None = None
    business_id: str | None = None
    restock: bool = True
    returned: bool = False


class Order(NamedTuple):
    """Everything known about an order.

    `seen` maps the business identities of payments, partial cancellations and refunds that were judged to digests of
    what they said: they count once even after the inbox has dropped their event ids, and another content is noticed.
    The digest is empty for payments, and for facts that were judged before digests were stored.
    `refused` stays true for an order that was rejected when it was created.
    """

    order_id: str
    status: OrderStatus = OrderStatus.PENDING
    user_id: str | None = None
    cart_id: str | None = None
    lines: Mapping[str, Line] = {}
    paid: bool = False
    refused: bool = False
    waiting: tuple[Fact, ...] = ()
    seen: Mapping[str, str] = {}
    expires_at: datetime | None = None
    version: int = 0


class Cart(NamedTuple):
    """A cart and its hold, in units by product.

    `as_of` is the time of the newest snapshot applied, or of the order that took the hold over; `converted_at` is the
    time of the newest such order.
    """

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
    """One movement of one product.

    `quantity` is positive; it and the stock before and after are in units. `sequence` counts 1, 2, 3 ... per product
    without holes, and the `before` of each entry equals the `after` of the previous one.
    """

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
    """What is published on `inventory.reservations`, each kind as the type `inventory.reservation.<kind>`."""

    RESERVED = "reserved"
    REJECTED = "rejected"
    DEDUCTED = "deducted"
    RELEASED = "released"
    EXPIRED = "expired"
    SHORTFALL = "shortfall"
    RESTOCKED = "restocked"
    CART_SHORTAGE = "cart_shortage"


class Shortage(NamedTuple):
    """A line that could not be served in full: units requested, and units available for it."""

    product_id: str
    requested: int
    available: int
    reason: Reason


class ReservationOutcome(NamedTuple):
    """What happened to the stock of an order or a cart.

    `lines` are the units, by product, that the kind is about: those reserved, deducted, released, expired or
    restocked; for a cart shortage those held. `shortages` are the lines that could not be served.
    """

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


class BackInStock(NamedTuple):
    """A product of which nothing was available before the decision, and something is after it."""

    product: Product
    cause: Cause


Outcome = ReservationOutcome | StockAlert | BackInStock
"""An event to publish."""


class ResolvedFact(NamedTuple):
    """A waiting fact that has been judged: applied, or refused for `reason`."""

    cause: Cause
    disposition: Disposition
    reason: Reason | None = None


class Decision(NamedTuple):
    """The answer to a command: the new values of what it changes, the ledger entries and the outcomes to publish.

    `resolved` are facts that no longer wait. `short` are the products whose lack of stock shaped the decision, with the
    units that were missing: expiring holds on them could change it.
    `shortages` are the short lines of a refused cart, `parts` the decisions
    that a command of several adjustments is made of; both are for the caller that waits, not for the books.
    """

    disposition: Disposition
    reason: Reason | None = None
    message: str | None = None
    products: Mapping[str, Product] = {}
    order: Order | None = None
    cart: Cart | None = None
    entries: tuple[LedgerEntry, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    resolved: tuple[ResolvedFact, ...] = ()
    short: Mapping[str, int] = {}
    shortages: tuple[Shortage, ...] = ()
    parts: "tuple[Decision, ...]" = ()


class State(NamedTuple):
    """The products, orders and carts that a batch works on, by id; what is missing does not exist."""

    products: dict[str, Product]
    orders: dict[str, Order]
    carts: dict[str, Cart]


# Read once: looking a member up through its enum costs 0.1 us, and every movement is judged.
_OK = StockStatus.OK


def judge(available: int, threshold: int) -> StockStatus:
    """Return the stock status for `available` units; a threshold of 0 has no `low`."""
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
        if not is_possible(line):
            message = f"order {order.order_id}, line {product_id} is impossible: {line}"
            raise AssertionError(message)
