"""Commands: what the domain is asked to do. Those made from an event carry it as their cause."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from domain.model import Cause, Operation, ReferenceType


@dataclass(frozen=True, slots=True)
class CreateOrder:
    """Reserve all lines of an order, or none, and take over the hold of `cart_id`."""

    cause: Cause
    order_id: str
    lines: Mapping[str, int]
    cart_id: str | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class PayOrder:
    """Deduct the order's hold."""

    cause: Cause
    order_id: str


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """Cancel the whole order, or only `lines`."""

    cause: Cause
    order_id: str
    lines: Mapping[str, int] | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """Put refunded units back on hand; without `restock`, only count them as refunded."""

    cause: Cause
    order_id: str
    refund_id: str
    lines: Mapping[str, int]
    restock: bool = True


@dataclass(frozen=True, slots=True)
class UpdateCart:
    """Move the cart's hold to match a snapshot: the whole cart as it is now."""

    cause: Cause
    cart_id: str
    lines: Mapping[str, int]
    user_id: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class CreateProduct:
    """Create a product with its initial stock; without `threshold` the policy's default applies."""

    cause: Cause
    product_id: str
    initial_quantity: int = 0
    threshold: int | None = None
    operator: str | None = None


@dataclass(frozen=True, slots=True)
class AdjustStock:
    """Correct a product's stock on hand, its threshold, or both; at least one is given.

    With `expected_version` the change is a compare-and-set on the product's version.
    """

    cause: Cause
    product_id: str
    operation: Operation | None = None
    quantity: int = 0
    threshold: int | None = None
    reason: str | None = None
    operator: str | None = None
    expected_version: int | None = None
    reference_type: ReferenceType = ReferenceType.MANUAL


@dataclass(frozen=True, slots=True)
class ExpireOrder:
    """Release an order's hold if it was due before `due_before`."""

    order_id: str
    due_before: datetime


@dataclass(frozen=True, slots=True)
class ExpireCart:
    """Release a cart's hold if it was due before `due_before`."""

    cart_id: str
    due_before: datetime


@dataclass(frozen=True, slots=True)
class ForgetFact:
    """Withdraw a fact that waited past its deadline; its event becomes a dead letter."""

    order_id: str
    source: str
    event_id: str


CausedCommand = CreateOrder | PayOrder | CancelOrder | RefundOrder | UpdateCart | CreateProduct | AdjustStock
"""Commands with a cause: an event, or the request of a person or a program."""

Expiry = ExpireOrder | ExpireCart
"""Commands that follow from the passing of time; what they did before, they do not do again."""

Command = CausedCommand | Expiry | ForgetFact
