"""Waiting facts: keep what arrives before it can be applied, and recognize what was judged before."""

import hashlib

from domain.commands import ForgetFact
from domain.draft import OrderDraft
from domain.model import (
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

# An order is one row, read and written whole by each of its events, so what it keeps is bounded.
MAX_WAITING_FACTS = 100
MAX_WAITING_LINES = 5_000
MAX_JUDGED = 1_000

_PAYMENT = "payment:"

# The digest in `Order.seen` of a payment, and of a fact that was judged before digests were stored (migration 0007).
_NO_DIGEST = ""


def park(order: Order, fact: Fact) -> Decision:
    """Keep a fact with its order until it can be judged; beyond the bounds it is in conflict, which can be redriven.

    The first payment and a cancellation of the whole order wait, whatever else waits.
    """
    if fact.kind is FactKind.PAID and has_waiting(order, FactKind.PAID) and len(order.waiting) >= MAX_WAITING_FACTS:
        return _beyond_bounds(f"more than {MAX_WAITING_FACTS} facts would wait for order {order.order_id}")
    if fact.lines is not None:
        partial = [waiting.lines for waiting in order.waiting if waiting.lines is not None]
        if len(partial) >= MAX_WAITING_FACTS or sum(map(len, partial)) + len(fact.lines) > MAX_WAITING_LINES:
            return _beyond_bounds(
                f"more than {MAX_WAITING_FACTS} partial cancellations and refunds, or {MAX_WAITING_LINES} of their "
                f"lines, would wait for order {order.order_id}"
            )
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


def judged_too_many(order: Order) -> Decision | None:
    """Return the conflict of one more partial cancellation or refund than an order can have, or None below the bound.

    Their identities are kept for as long as the order, so that each counts once.
    """
    if len(order.seen) < MAX_JUDGED:
        return None
    return _beyond_bounds(f"order {order.order_id} already has {MAX_JUDGED} partial cancellations and refunds")


def _beyond_bounds(message: str) -> Decision:
    return Decision(Disposition.CONFLICT, message=message)


def has_waiting(order: Order, kind: FactKind) -> bool:
    """Say whether a fact of this kind waits."""
    return bool(order.waiting) and any(fact.kind is kind for fact in order.waiting)


def is_cancelled_early(order: Order) -> bool:
    """Say whether an order that was not created yet is cancelled whole: the cancellation waits, or met a payment.

    A payment of a pending order counts as received only where it met such a cancellation; any other one waits.
    """
    return order.status is OrderStatus.PENDING and (order.paid or any(map(_is_whole_cancellation, order.waiting)))


def apply_early_cancellation(draft: OrderDraft) -> tuple[ResolvedFact, ...]:
    """Apply the cancellation of the whole order that waits, because a payment was refused on its account.

    It has no deadline from now on: were it withdrawn, the order could be served although a shortfall was published.
    """
    cancellations = tuple(fact for fact in draft.waiting if _is_whole_cancellation(fact))
    draft.waiting = tuple(fact for fact in draft.waiting if not _is_whole_cancellation(fact))
    return tuple(ResolvedFact(fact.cause, Disposition.APPLIED) for fact in cancellations)


def receive_payment(draft: OrderDraft, payment: Fact) -> None:
    """Count the order as paid, and remember the payment's id if it has one."""
    draft.paid = True
    if payment.business_id is not None:
        draft.mark_seen(identity_of(payment), _NO_DIGEST)


def is_second_payment(order: Order, payment: Fact) -> bool:
    """Say whether a payment of an order is another one than those received before; without ids, it is a repeat."""
    if payment.business_id is None:
        return False
    known = {identity for identity in order.seen if identity.startswith(_PAYMENT)}
    known.update(identity_of(waits) for waits in order.waiting if waits.kind is FactKind.PAID and waits.business_id)
    return bool(known) and identity_of(payment) not in known


def identity_of(fact: Fact) -> str:
    """Return the business identity of a payment, a refund or a partial cancellation, as `Order.seen` keeps it."""
    if fact.kind is FactKind.PAID:
        return f"{_PAYMENT}{fact.business_id}"
    if fact.kind is FactKind.REFUNDED:
        return f"refund:{fact.business_id}"
    if fact.business_id is not None:
        return f"cancellation_id:{fact.business_id}"
    return f"cancellation:{fact.cause.source}:{fact.cause.event_id}"


def content_of(fact: Fact) -> str:
    """Return a digest of what a fact says, as `Order.seen` keeps it."""
    said = (sorted((fact.lines or {}).items()), fact.restock, fact.returned)
    return hashlib.blake2b(repr(said).encode(), digest_size=8).hexdigest()


def judge_repeat(order: Order, fact: Fact) -> Decision | None:
    """Return the decision about a fact whose business identity is known: a duplicate, or a conflict; else None.

    Without a digest of what was judged, it is taken for a duplicate: it counted once, whatever it said.
    """
    identity = identity_of(fact)
    known = order.seen.get(identity)
    if known is None:
        known = next((content_of(waits) for waits in order.waiting if _is_named(waits, identity)), None)
    if known is None:
        return None
    if known in {_NO_DIGEST, content_of(fact)}:
        return Decision(Disposition.DUPLICATE)
    kind = "refund" if fact.kind is FactKind.REFUNDED else "cancellation"
    name = fact.business_id or fact.cause.event_id
    return Decision(
        Disposition.CONFLICT, message=f"{kind} {name} of order {order.order_id} was received before with other content"
    )


def _is_named(fact: Fact, identity: str) -> bool:
    return fact.lines is not None and identity_of(fact) == identity


def _is_whole_cancellation(fact: Fact) -> bool:
    return fact.kind is FactKind.CANCELLED and fact.lines is None


def _with_waiting(order: Order, waiting: tuple[Fact, ...]) -> Order:
    return order._replace(waiting=waiting, version=order.version + 1)
