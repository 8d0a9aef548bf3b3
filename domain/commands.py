"""Commands: what the domain is asked to do. Those made from an event carry it as their cause."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

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
    """Deduct the order's hold; `payment_id` tells a second payment from a repeat of the first."""

    cause: Cause
    order_id: str
    payment_id: str | None = None


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """Cancel the whole order, or only `lines`; `cancellation_id` identifies such a partial cancellation."""

    cause: Cause
    order_id: str
    lines: Mapping[str, int] | None = None
    reason: str | None = None
    cancellation_id: str | None = None


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """Put refunded units back on hand; without `restock`, only count them as refunded.

    Without `lines`, only money was given back. `returned` are delivered units that the customer sent back. Other
    refunds may be the money of cancelled units.
    """

    cause: Cause
    order_id: str
    refund_id: str
    lines: Mapping[str, int]
    restock: bool = True
    returned: bool = False


@dataclass(frozen=True, slots=True)
class UpdateCart:
    """Move the cart's hold to match a snapshot: the whole cart as it is now.

    With `partial` the hold is as much as is available; without it a shortage is refused and nothing changes.
    `expires_in` is how long the hold lasts; without it the policy's time to live applies.
    """

    cause: Cause
    cart_id: str
    lines: Mapping[str, int]
    user_id: str | None = None
    version: int | None = None
    partial: bool = True
    expires_in: timedelta | None = None


@dataclass(frozen=True, slots=True)
class ExtendCart:
    """Prolong a cart's hold to `expires_in` from now; a hold that lasts longer already stays as it is."""

    cause: Cause
    cart_id: str
    expires_in: timedelta


@dataclass(frozen=True, slots=True)
class ReleaseCart:
    """Release everything that a cart holds."""

    cause: Cause
    cart_id: str


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

    With `expected_version` the change is a compare-and-set on the product's version. With `create` a product that does
    not exist is created first, unless units are to be subtracted or a version is expected.
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
    create: bool = False


@dataclass(frozen=True, slots=True)
class AdjustMany:
    """Apply adjustments in order: with `all_or_nothing` none where one is refused, else each by itself."""

    cause: Cause
    adjustments: Sequence[AdjustStock]
    all_or_nothing: bool


@dataclass(frozen=True, slots=True)
class Request:
    """A command of a caller that waits for the answer, and so of nothing that may wait itself.

    `owner` is the one user whose carts and orders it may touch; None may touch anybody's.
    """

    command: CreateOrder | PayOrder | CancelOrder | UpdateCart | ExtendCart | ReleaseCart
    owner: str | None = None

    @property
    def cause(self) -> Cause:
        """The cause of the command."""
        return self.command.cause


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


CausedCommand = (
    CreateOrder
    | PayOrder
    | CancelOrder
    | RefundOrder
    | UpdateCart
    | ExtendCart
    | ReleaseCart
    | CreateProduct
    | AdjustStock
    | AdjustMany
    | Request
)
"""Commands with a cause: an event, or the request of a person or a program."""

Expiry = ExpireOrder | ExpireCart
"""Commands that follow from the passing of time; what they did before, they do not do again."""

Command = CausedCommand | Expiry | ForgetFact
