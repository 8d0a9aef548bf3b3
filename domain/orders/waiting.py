"""Waiting facts: keep what arrives before it can be applied, and recognize what was judged before."""

from domain.commands import ForgetFact
from domain.model import Cause, Decision, Disposition, Fact, FactKind, Order, Policy, State


def park(order: Order, fact: Fact) -> Decision:
    """Keep a fact with its order until it can be judged."""
    return Decision(Disposition.PARKED, order=_with_waiting(order, (*order.waiting, fact)))


def forget_fact(state: State, command: ForgetFact, _policy: Policy) -> Decision:
    """Withdraw a waiting fact, as if its event had never arrived."""
    order = state.orders.get(command.order_id)
    if order is None:
        return Decision(Disposition.DUPLICATE)
    identity = (command.source, command.event_id)
    kept = tuple(fact for fact in order.waiting if (fact.cause.source, fact.cause.event_id) != identity)
    if len(kept) == len(order.waiting):
        return Decision(Disposition.DUPLICATE)
    return Decision(Disposition.APPLIED, order=_with_waiting(order, kept))


def has_waiting(order: Order, kind: FactKind) -> bool:
    """Say whether a fact of this kind waits."""
    return bool(order.waiting) and any(fact.kind is kind for fact in order.waiting)


def has_waiting_cancellation(order: Order) -> bool:
    """Say whether a cancellation of the whole order waits."""
    return bool(order.waiting) and any(fact.kind is FactKind.CANCELLED and fact.lines is None for fact in order.waiting)


def refund_identity(refund_id: str) -> str:
    """Return the business identity of a refund, as `Order.seen` keeps it."""
    return f"refund:{refund_id}"


def cancellation_identity(cause: Cause) -> str:
    """Return the business identity of a partial cancellation, as `Order.seen` keeps it."""
    return f"cancellation:{cause.source}:{cause.event_id}"


def _with_waiting(order: Order, waiting: tuple[Fact, ...]) -> Order:
    return order._replace(waiting=waiting, version=order.version + 1)
