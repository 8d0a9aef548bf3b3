"""Test data for the domain: events as published, the commands they mean, and an in-memory shop that folds them.

The mapping repeats `workers.handlers`, so that the tests of the rules depend on nothing but the rules.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from domain.commands import (
    AdjustStock,
    CancelOrder,
    Command,
    CreateOrder,
    CreateProduct,
    PayOrder,
    RefundOrder,
    UpdateCart,
)
from domain.decide import step
from domain.due import DueHolds
from domain.model import (
    Cause,
    Decision,
    EntryType,
    LedgerEntry,
    Operation,
    Outcome,
    Policy,
    State,
    check_order,
    check_product,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Event = dict[str, Any]
Lines = Mapping[str, int]


def at(minutes: float) -> datetime:
    """Return the time so many minutes after noon."""
    return NOON + timedelta(minutes=minutes)


# --- events as published ------------------------------------------------------------------------


def event(topic: str, event_id: str, minutes: float, /, **data: Any) -> Event:
    """Return an event as a team would publish it; fields that are None are left out."""
    return {
        "topic": topic,
        "id": event_id,
        "source": "shop",
        "occurred_at": at(minutes),
        "data": {name: value for name, value in data.items() if value is not None},
    }


def _items(lines: Lines | None) -> list[dict[str, Any]] | None:
    return None if lines is None else [{"product_id": p, "quantity": n} for p, n in lines.items()]


def product(product_id: str, quantity: int = 100, threshold: int | None = None, minutes: float = 0) -> Event:
    """Return a `product.created`."""
    return event(
        "product.created",
        f"product-{product_id}",
        minutes,
        product_id=product_id,
        initial_quantity=quantity,
        low_stock_threshold=threshold,
    )


def created(lines: Lines, order: str = "o", cart: str | None = None, minutes: float = 0) -> Event:
    """Return an `order.created`."""
    return event(
        "order.created", f"created-{order}", minutes, order_id=order, cart_id=cart, user_id="u", items=_items(lines)
    )


def paid(order: str = "o", minutes: float = 1, payment_id: str | None = None) -> Event:
    """Return a `payment.succeeded`; its event id names the payment's id."""
    name = f"paid-{order}" if payment_id is None else f"paid-{order}-{payment_id}"
    return event("payment.succeeded", name, minutes, order_id=order, payment_id=payment_id)


def cancelled(
    lines: Lines | None = None, order: str = "o", name: str = "", minutes: float = 2, cancellation_id: str | None = None
) -> Event:
    """Return an `order.cancelled`: of the whole order, or of `lines`."""
    return event(
        "order.cancelled",
        f"cancelled-{order}{name}",
        minutes,
        order_id=order,
        cancellation_id=cancellation_id,
        items=_items(lines),
    )


def refunded(
    lines: Lines,
    name: str = "r",
    order: str = "o",
    *,
    restock: bool | None = None,
    returned: bool | None = None,
    minutes: float = 3,
) -> Event:
    """Return a `payment.refunded` with the refund id `name`."""
    return event(
        "payment.refunded",
        f"refunded-{order}-{name}",
        minutes,
        order_id=order,
        refund_id=name,
        items=_items(lines),
        restock=restock,
        returned=returned,
    )


def cart(lines: Lines, minutes: float = 0, version: int | None = None, cart_id: str = "c") -> Event:
    """Return a `cart.updated`."""
    return event(
        "cart.updated",
        f"cart-{cart_id}-{minutes}-{version}",
        minutes,
        cart_id=cart_id,
        user_id="u",
        version=version,
        items=_items(lines),
    )


def adjusted(product_id: str, operation: str | None = None, quantity: int | None = None, **more: Any) -> Event:
    """Return an `inventory.adjustment`."""
    return event(
        "inventory.adjustment",
        f"adjusted-{product_id}-{operation}-{quantity}-{sorted(more.items())}",
        5,
        product_id=product_id,
        operation=operation,
        quantity=quantity,
        reason="count",
        operator="ann",
        **more,
    )


# --- events to commands -------------------------------------------------------------------------


def command(published: Event) -> Command:  # noqa: PLR0911 - one return a topic
    """Return the command that an event means."""
    cause = Cause(published["source"], published["id"], published["occurred_at"])
    data = published["data"]
    lines: dict[str, int] = Counter()
    for item in data.get("items", ()):
        lines[item["product_id"]] += item["quantity"]
    lines = dict(lines)
    match published["topic"]:
        case "product.created":
            return CreateProduct(
                cause, data["product_id"], data.get("initial_quantity", 0), data.get("low_stock_threshold")
            )
        case "inventory.adjustment":
            operation = data.get("operation")
            return AdjustStock(
                cause,
                data["product_id"],
                None if operation is None else Operation(operation),
                data.get("quantity", 0),
                data.get("low_stock_threshold"),
                data.get("reason"),
                data.get("operator"),
                data.get("expected_version"),
            )
        case "cart.updated":
            return UpdateCart(cause, data["cart_id"], lines, data.get("user_id"), data.get("version"))
        case "order.created":
            return CreateOrder(cause, data["order_id"], lines, data.get("cart_id"), data.get("user_id"))
        case "payment.succeeded":
            return PayOrder(cause, data["order_id"], data.get("payment_id"))
        case "order.cancelled":
            return CancelOrder(
                cause,
                data["order_id"],
                lines if "items" in data else None,
                data.get("reason"),
                data.get("cancellation_id"),
            )
        case "payment.refunded":
            return RefundOrder(
                cause,
                data["order_id"],
                data["refund_id"],
                lines,
                data.get("restock", True),
                data.get("returned", False),
            )
        case topic:
            raise ValueError(topic)


# --- a shop over the domain ---------------------------------------------------------------------


class Books:
    """A state that events are folded into, with every decision that was made."""

    def __init__(self, *given: Event, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.state = State({}, {}, {})
        self.decisions: list[Decision] = []
        for published in given:
            self.take(published)

    @property
    def entries(self) -> list[LedgerEntry]:
        """Every ledger entry, in order."""
        return [entry for decision in self.decisions for entry in decision.entries]

    @property
    def outcomes(self) -> list[Outcome]:
        """Every outcome, in order."""
        return [outcome for decision in self.decisions for outcome in decision.outcomes]

    def take(self, published: Event, due_before: datetime | None = None) -> Decision:
        """Fold one event and return its decision; with `due_before`, holds due before then may expire in its favour."""
        return self.obey(command(published), due_before)

    def obey(self, asked: Command, due_before: datetime | None = None) -> Decision:
        """Fold one command."""
        due = None if due_before is None else DueHolds(self.state, due_before, dict.fromkeys(self.state.products))
        decision, expiries, _ = step(self.state, asked, self.policy, due)
        self.decisions += [*expiries, decision]
        return decision

    def stock(self, product_id: str = "p") -> tuple[int, int]:
        """Return (on_hand, reserved) of a product."""
        found = self.state.products[product_id]
        return (found.on_hand, found.reserved)

    def check(self) -> None:
        """Raise AssertionError unless stock, lines and ledger are possible and agree with each other."""
        for found in self.state.products.values():
            check_product(found)
            rebuilt = rebuild(entry for entry in self.entries if entry.product_id == found.product_id)
            assert rebuilt == (found.on_hand, found.reserved, found.sequence)
        for order in self.state.orders.values():
            check_order(order)
        assert holds_by_product(self.state) == {
            found.product_id: found.reserved for found in self.state.products.values() if found.reserved
        }


_SIGNS = {
    EntryType.IN: (1, 0),
    EntryType.RESERVE: (0, 1),
    EntryType.RELEASE: (0, -1),
}


def rebuild(entries: Iterable[LedgerEntry]) -> tuple[int, int, int]:
    """Replay one product's ledger from nothing; returns on_hand, reserved and the last sequence.

    Raises AssertionError for a hole in the sequence, a `before` that is not the last `after`, a quantity that is not
    positive, or a change that the entry's type does not allow.
    """
    on_hand = reserved = sequence = 0
    for entry in entries:
        sequence += 1
        assert entry.sequence == sequence
        assert entry.quantity > 0
        assert (entry.on_hand_before, entry.reserved_before) == (on_hand, reserved)
        change = (entry.on_hand_after - on_hand, entry.reserved_after - reserved)
        quantity = entry.quantity
        match entry.type:
            case EntryType.OUT:
                assert change in {(-quantity, -quantity), (-quantity, 0)}
            case EntryType.ADJUST:
                assert change in {(quantity, 0), (-quantity, 0)}
            case kind:
                on_hand_sign, reserved_sign = _SIGNS[kind]
                assert change == (on_hand_sign * quantity, reserved_sign * quantity)
        on_hand, reserved = entry.on_hand_after, entry.reserved_after
        assert 0 <= reserved <= on_hand
    return on_hand, reserved, sequence


def holds_by_product(state: State) -> dict[str, int]:
    """Add up what orders and carts hold of each product."""
    held: Counter[str] = Counter()
    for order in state.orders.values():
        for product_id, line in order.lines.items():
            held[product_id] += line.held
    for found in state.carts.values():
        held.update(found.held)
    return {product_id: quantity for product_id, quantity in held.items() if quantity}
