"""What an order keeps is bounded, however many partial cancellations and refunds a producer sends."""

from datetime import UTC, datetime

import pytest

from domain.commands import CancelOrder, Command, CreateOrder, CreateProduct, PayOrder, RefundOrder
from domain.decide import step
from domain.model import Cause, Decision, Disposition, Policy, State

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LINES = {f"p{number}": 1 for number in range(1000)}


def _apply(state: State, command: Command) -> Decision:
    return step(state, command, Policy(), None).decision


def _cause(name: str) -> Cause:
    return Cause("shop", name, NOON)


def _refund(number: int, lines: dict[str, int]) -> RefundOrder:
    return RefundOrder(_cause(f"refund-{number}"), "o", str(number), lines)


@pytest.mark.parametrize(("lines", "kept"), [(LINES, 5), ({"p": 1}, 100)])
@pytest.mark.parametrize("kind", ["cancellation", "refund"])
def test_facts_that_wait_are_bounded(kind: str, lines: dict[str, int], kept: int) -> None:
    """600 partial facts of an order never heard of keep 100 facts or 5,000 lines; the rest is in conflict."""
    state = State({}, {}, {})
    dispositions = [
        _apply(
            state,
            _refund(number, lines) if kind == "refund" else CancelOrder(_cause(f"cancel-{number}"), "o", lines),
        ).disposition
        for number in range(600)
    ]
    assert [Disposition.PARKED] * kept + [Disposition.CONFLICT] * (600 - kept) == dispositions
    assert kept == len(state.orders["o"].waiting)


def test_a_payment_waits_whatever_else_waits() -> None:
    """The facts that decide about the whole order are never crowded out."""
    state = State({}, {}, {})
    for number in range(600):
        _apply(state, _refund(number, {"p": 1}))
    assert Disposition.PARKED is _apply(state, PayOrder(_cause("paid"), "o")).disposition
    assert Disposition.CONFLICT is _apply(state, _refund(600, {"p": 1})).disposition


def test_a_fact_that_cannot_wait_says_why() -> None:
    """The dead letter names the order and its bounds."""
    state = State({}, {}, {})
    for number in range(5):
        _apply(state, _refund(number, LINES))
    message = "more than 100 partial cancellations and refunds, or 5000 of their lines, would wait for order o"
    assert message == _apply(state, _refund(5, {"p": 1})).message


def test_judged_refunds_are_bounded() -> None:
    """An order remembers 1,000 refunds; one more is a conflict that says so, and a repeat is still a duplicate."""
    state = State({}, {}, {})
    _apply(state, CreateProduct(_cause("product"), "p", 5000))
    _apply(state, CreateOrder(_cause("created"), "o", {"p": 2000}))
    _apply(state, PayOrder(_cause("paid"), "o"))
    applied = [_apply(state, _refund(number, {"p": 1})).disposition for number in range(1000)]
    assert [Disposition.APPLIED] * 1000 == applied
    beyond = _apply(state, _refund(1000, {"p": 1}))
    assert (Disposition.CONFLICT, "order o already has 1000 partial cancellations and refunds") == (
        beyond.disposition,
        beyond.message,
    )
    assert Disposition.DUPLICATE is _apply(state, _refund(7, {"p": 1})).disposition
    cancelled = CancelOrder(_cause("part"), "o", {"p": 1})
    assert Disposition.CONFLICT is _apply(state, cancelled).disposition
