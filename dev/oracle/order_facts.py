"""The facts known about an order, and what follows from them: its status, and the units it must hold and deduct."""

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime

from dev.oracle.events import Event


@dataclass
class OrderFacts:
    """The facts known about one order, and the answers that depended on stock: `rejected`, `expired`, `deducted`.

    - `refunded`: units refunded without coming back; a refund may be the money of cancelled units.
    - `returned`: units refunded that had been delivered and came back.
    - `not_restocked`: units of both that do not return to the stock.
    - `waiting`: events that the order cannot take yet; `judged`: refunds and partial cancellations by their identity.
    - `payments`: the ids of the payments seen; `placed`: units held and deducted now, by product.
    """

    order_id: str
    requested: dict[str, int] | None = None
    expires_at: datetime | None = None
    rejected: bool = False
    expired: bool = False
    paid: bool = False
    deducted: bool = False
    cancelled: bool = False
    cancelled_lines: Counter[str] = field(default_factory=Counter)
    refunded: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)
    not_restocked: Counter[str] = field(default_factory=Counter)
    waiting: list[Event] = field(default_factory=list)
    judged: dict[object, Event] = field(default_factory=dict)
    payments: set[str] = field(default_factory=set)
    placed: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __deepcopy__(self, memo: object) -> "OrderFacts":
        """Copy field by field: the search through histories copies often, and the generic copy is ten times slower."""
        return replace(
            self,
            requested=None if self.requested is None else dict(self.requested),
            cancelled_lines=Counter(self.cancelled_lines),
            refunded=Counter(self.refunded),
            returned=Counter(self.returned),
            not_restocked=Counter(self.not_restocked),
            waiting=list(self.waiting),
            judged=dict(self.judged),
            payments=set(self.payments),
            placed=dict(self.placed),
        )

    @property
    def status(self) -> str:
        """The order's status, which follows from its facts."""
        if self.requested is None:
            return "pending"
        if self.deducted:
            return "restocked" if self.cancelled else "deducted"
        if self.cancelled or not any(self.remaining().values()):
            return "released"
        if self.rejected:
            return "rejected"
        return "expired" if self.expired else "reserved"

    def remaining(self) -> dict[str, int]:
        """Return the units by product that the customer did not give up, by cancelling lines or by refunds.

        A refund may be the money of a cancellation, so of the two only the larger number was given up.
        """
        asked = self.requested or {}
        return {p: n - max(self.cancelled_lines[p], self.refunded[p]) - self.returned[p] for p, n in asked.items()}

    def cancellable(self) -> dict[str, int]:
        """Return the units by product that a cancellation can still name."""
        return {p: n - self.cancelled_lines[p] - self.returned[p] for p, n in (self.requested or {}).items()}

    def refundable(self) -> dict[str, int]:
        """Return the units by product that a refund can still name."""
        return {p: n - self.refunded[p] - self.returned[p] for p, n in (self.requested or {}).items()}

    def required(self) -> dict[str, tuple[int, int]]:
        """Return by product how many units the order must hold, and how many must be deducted for it."""
        places: dict[str, tuple[int, int]] = {}
        for product_id, left in self.remaining().items():
            not_restocked = self.not_restocked[product_id]
            if self.status == "reserved":
                places[product_id] = (left, 0)
            elif self.status == "deducted":
                places[product_id] = (0, left + not_restocked)
            else:
                places[product_id] = (0, not_restocked)
        return places

    def is_due(self, due_before: datetime) -> bool:
        """Say whether the order's hold ended before then."""
        return self.status == "reserved" and self.expires_at is not None and self.expires_at < due_before

    def is_cancelled_early(self) -> bool:
        """Say whether the whole order was cancelled before it was created."""
        return self.status == "pending" and (self.cancelled or any(map(is_whole_cancellation, self.waiting)))

    def record_payment(self, event: Event) -> None:
        """Remember the payment's id, if it has one, so that a repeat is recognized."""
        self.payments.update(filter(None, [event.data.get("payment_id")]))

    def record_judged(self, event: Event) -> None:
        """Remember a refund or partial cancellation, so that a repeat is recognized."""
        self.judged[_identity(event)] = event

    def repeat_of(self, event: Event) -> str | None:
        """Say whether a refund or partial cancellation repeats a known one.

        Returns `duplicate` for the same content, `conflict` for another under the same identity, None if it is new.
        """
        known = {
            _identity(waits): waits for waits in self.waiting if waits.topic != "payment.succeeded" and waits.lines
        } | self.judged
        before = known.get(_identity(event))
        if before is None:
            return None
        return "duplicate" if _content(before) == _content(event) else "conflict"


def is_whole_cancellation(event: Event) -> bool:
    """Say whether the event cancels a whole order rather than some of its lines."""
    return event.topic == "order.cancelled" and event.lines is None


def _identity(event: Event) -> object:
    """Return what a shop recognizes a refund or a partial cancellation by."""
    if event.topic == "payment.refunded":
        return ("refund", event.data["refund_id"])
    return ("cancellation", event.data.get("cancellation_id") or event.identity)


def _content(event: Event) -> tuple[object, ...]:
    return (event.lines or {}, event.data.get("restock", True), event.data.get("returned", False))
