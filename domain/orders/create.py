"""`order.created`: reserve all lines or none, apply the facts that arrived earlier, and take over the cart's hold."""

from collections.abc import Mapping
from typing import assert_never

from domain.carts import convert_cart, hold_for_order
from domain.commands import CreateOrder
from domain.draft import OrderDraft
from domain.model import (
    Decision,
    Disposition,
    Fact,
    FactKind,
    Order,
    OrderStatus,
    OutcomeKind,
    Policy,
    Reason,
    ResolvedFact,
    Shortage,
    State,
)
from domain.orders.conclude import conclude, order_outcome
from domain.orders.pay import deduct
from domain.orders.shortages import find_shortages, missing_units
from domain.orders.waiting import content_of, identity_of, receive_payment

# Read once: looking a member up through its enum costs 0.1 us, and every event needs several.
_PENDING, _RESERVED = OrderStatus.PENDING, OrderStatus.RESERVED


def create_order(state: State, command: CreateOrder, policy: Policy) -> Decision:
    """Reserve all lines or none, less what was cancelled before; an order already paid is deducted at once.

    The same order again is a duplicate, with other lines a conflict.
    """
    known = state.orders.get(command.order_id) or Order(command.order_id)
    if known.status is not _PENDING:
        return _repeated_order(known, command)
    cause = command.cause
    draft = OrderDraft(known, state.products, cause)
    draft.user_id, draft.cart_id = command.user_id, command.cart_id
    draft.lines.request(command.lines)
    # A pending order is paid only where the payment met a cancellation of the whole order.
    cancelled = known.paid
    resolved: tuple[ResolvedFact, ...] = ()
    if draft.waiting:
        cancelled_now, resolved = _apply_early_facts(draft)
        cancelled = cancelled or cancelled_now
    cart = None if command.cart_id is None else state.carts.get(command.cart_id)
    wanted = draft.lines.wanted()
    if cancelled or not wanted:
        draft.status = OrderStatus.RELEASED
        if draft.paid:
            draft.lines.cancel_whole()
        converted = convert_cart(draft.moves, cart, command)
        outcome = order_outcome(OutcomeKind.RELEASED, draft, cause, {})
        return conclude(draft, outcome, cart=converted, resolved=resolved)
    shortages = find_shortages(state, wanted, hold_for_order(cart, cause.occurred_at))
    if shortages:
        return _reject(draft, shortages, resolved)
    converted = convert_cart(draft.moves, cart, command)
    draft.reserve(wanted)
    if draft.paid:
        outcome = deduct(draft, wanted)
    else:
        draft.status = _RESERVED
        draft.expires_at = cause.occurred_at + policy.order_ttl
        outcome = order_outcome(OutcomeKind.RESERVED, draft, cause, wanted)
    return conclude(draft, outcome, cart=converted, resolved=resolved)


def _repeated_order(order: Order, command: CreateOrder) -> Decision:
    if {product_id: line.requested for product_id, line in order.lines.items()} == command.lines:
        return Decision(Disposition.DUPLICATE)
    return Decision(Disposition.CONFLICT, message=f"order {order.order_id} was created before with other lines")


def _apply_early_facts(draft: OrderDraft) -> tuple[bool, tuple[ResolvedFact, ...]]:
    """Apply the facts that arrived before the order; returns whether it is cancelled whole, and the resolved facts.

    Refunds and second payments go on waiting: they are judged once the order is concluded.
    """
    cancelled = False
    resolved: list[ResolvedFact] = []
    again: list[Fact] = []
    for fact in draft.waiting:
        refusal: Reason | None = None
        match fact.kind:
            case FactKind.REFUNDED:
                continue
            case FactKind.PAID if draft.paid:
                again.append(fact)
                continue
            case FactKind.PAID:
                receive_payment(draft, fact)
            case FactKind.CANCELLED if fact.lines is None:
                cancelled = True
            case FactKind.CANCELLED:
                refusal = _cancel_lines_early(draft, fact, fact.lines)
            case _:
                assert_never(fact.kind)
        resolved.append(
            ResolvedFact(fact.cause, Disposition.APPLIED if refusal is None else Disposition.REFUSED, refusal)
        )
    draft.waiting = (*again, *(fact for fact in draft.waiting if fact.kind is FactKind.REFUNDED))
    return cancelled, tuple(resolved)


def _cancel_lines_early(draft: OrderDraft, fact: Fact, lines: Mapping[str, int]) -> Reason | None:
    draft.mark_seen(identity_of(fact), content_of(fact))
    if not draft.lines.is_cancellable(lines):
        return Reason.CANCELLATION_EXCEEDS_ORDER
    draft.lines.cancel(lines)
    return None


def _reject(draft: OrderDraft, shortages: tuple[Shortage, ...], resolved: tuple[ResolvedFact, ...]) -> Decision:
    """Refuse the whole order; if it is paid that is a shortfall. Its cart keeps its hold."""
    draft.status, draft.refused = OrderStatus.REJECTED, True
    kind = OutcomeKind.SHORTFALL if draft.paid else OutcomeKind.REJECTED
    reason = shortages[0].reason
    outcome = order_outcome(kind, draft, draft.cause, {}, reason, shortages)
    return conclude(draft, outcome, resolved=resolved, refusal=reason, short=missing_units(shortages))
