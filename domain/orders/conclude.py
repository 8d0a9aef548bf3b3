"""Conclude a decision about an order: judge the refunds that waited for it, then the edges, and assemble the result."""

from collections.abc import Mapping

from domain.draft import OrderDraft
from domain.model import (
    Cart,
    Cause,
    Decision,
    Disposition,
    FactKind,
    OrderStatus,
    Outcome,
    OutcomeKind,
    Reason,
    ReferenceType,
    ReservationOutcome,
    ResolvedFact,
    Shortage,
)
from domain.orders.judge_refund import judge_refund
from domain.orders.waiting import receive_payment

# Read once: looking a member up through its enum costs 0.1 us, and every event needs several.
_NONE: Mapping[str, int] = {}
_ORDER, _APPLIED, _PENDING = ReferenceType.ORDER, Disposition.APPLIED, OrderStatus.PENDING


def conclude(
    draft: OrderDraft,
    outcome: Outcome | None,
    *,
    cart: Cart | None = None,
    resolved: tuple[ResolvedFact, ...] = (),
    refusal: Reason | None = None,
    short: Mapping[str, int] = _NONE,
) -> Decision:
    """Return the decision that the draft has come to: applied, or refused for `refusal`."""
    outcomes: tuple[Outcome, ...] = () if outcome is None else (outcome,)
    if draft.waiting and draft.status is not _PENDING and (draft.paid or draft.refused):
        judged, refunds = _judge_waiting(draft)
        resolved += judged
        outcomes += refunds
    moves = draft.moves
    alerts = moves.close(draft.cause)
    return Decision(
        _APPLIED if refusal is None else Disposition.REFUSED,
        refusal,
        None,
        moves.touched,
        draft.freeze(),
        cart,
        tuple(moves.entries),
        (*outcomes, *alerts),
        resolved,
        short,
    )


def order_outcome(
    kind: OutcomeKind,
    draft: OrderDraft,
    cause: Cause,
    lines: Mapping[str, int],
    reason: Reason | None = None,
    shortages: tuple[Shortage, ...] = (),
) -> ReservationOutcome:
    """Return an outcome about the draft's order."""
    return ReservationOutcome(kind, _ORDER, draft.order_id, draft.user_id, lines, reason, shortages, cause)


def not_delivered(draft: OrderDraft, reason: Reason) -> tuple[Shortage, ...]:
    """Return the lines of an order that a payment was meant for and will not be delivered, for `reason`."""
    return tuple(
        Shortage(product_id, quantity, draft.moves.available(product_id), reason)
        for product_id, quantity in draft.lines.wanted().items()
    )


def _judge_waiting(draft: OrderDraft) -> tuple[tuple[ResolvedFact, ...], tuple[Outcome, ...]]:
    """Judge each refund and each second payment that waited.

    Its entries and outcome name its own event; the edges name the command's.
    """
    resolved: list[ResolvedFact] = []
    outcomes: list[Outcome] = []
    for fact in draft.waiting:
        if fact.kind is FactKind.PAID:
            receive_payment(draft, fact)
            reason = Reason.ALREADY_PAID
            resolved.append(ResolvedFact(fact.cause, Disposition.REFUSED, reason))
            shortages = not_delivered(draft, reason)
            outcomes.append(order_outcome(OutcomeKind.SHORTFALL, draft, fact.cause, {}, reason, shortages))
            continue
        refusal, kind, moved = judge_refund(draft, fact)
        resolved.append(ResolvedFact(fact.cause, _APPLIED if refusal is None else Disposition.REFUSED, refusal))
        if kind is not None:
            outcomes.append(order_outcome(kind, draft, fact.cause, moved))
    draft.waiting = ()
    return tuple(resolved), tuple(outcomes)
