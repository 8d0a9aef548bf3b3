"""Waiting facts: keep what arrives before it can be applied, and recognize what was judged before."""

from domain.commands import ForgetFact
from domain.draft import OrderDraft
from domain.model import (
    Cause,
    Decision,
    Disposition,
    Fact,
    FactKind,
    Order,
    OrderStatus,
    Policy,
    ResolvedFact,
    State,
)


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


def is_cancelled_early(order: Order) -> bool:
    """Say whether an order that was not created yet is cancelled whole: the cancellation waits, or met a payment.

    A payment of a pending order counts as received only where it met such a cancellation; any other one waits.
    """
    return order.status is OrderStatus.PENDING and (order.paid or any(map(_is_whole_cancellation, order.waiting)))


def settle_early_cancellation(draft: OrderDraft) -> tuple[ResolvedFact, ...]:
    """Apply the cancellation of the whole order that waits, because a payment was refused on its account.

    It has no deadline from now on: were it withdrawn, the order could be served although a shortfall was published.
    """
    settled = tuple(fact for fact in draft.waiting if _is_whole_cancellation(fact))
    draft.waiting = tuple(fact for fact in draft.waiting if not _is_whole_cancellation(fact))
    return tuple(ResolvedFact(fact.cause, Disposition.APPLIED) for fact in settled)


def refund_identity(refund_id: str) -> str:
    """Return the business identity of a refund, as `Order.seen` keeps it."""
    return f"refund:{refund_id}"


def cancellation_identity(cause: Cause) -> str:
    """Return the business identity of a partial cancellation, as `Order.seen` keeps it."""
    return f"cancellation:{cause.source}:{cause.event_id}"


def _is_whole_cancellation(fact: Fact) -> bool:
    return fact.kind is FactKind.CANCELLED and fact.lines is None


def _with_waiting(order: Order, waiting: tuple[Fact, ...]) -> Order:
    return order._replace(waiting=waiting, version=order.version + 1)
