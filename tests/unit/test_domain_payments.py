"""Payments of orders: shortfalls, late payments, second payments."""

import pytest

from domain.commands import ForgetFact
from domain.model import Disposition, OrderStatus, OutcomeKind, Reason, ReservationOutcome, Shortage
from tests.unit.domain_cases import Event, adjusted, created, paid
from tests.unit.order_cases import CANCEL, CREATE, EXPIRE, PAY, Given, given


@pytest.mark.parametrize(
    ("known", "shortages"),
    [
        ((created({"p": 11}),), (Shortage("p", 11, 10, Reason.ORDER_REJECTED),)),
        ((CREATE, CANCEL), (Shortage("p", 4, 10, Reason.ORDER_CANCELLED),)),
        ((CREATE, EXPIRE, adjusted("p", "SET", 3)), (Shortage("p", 4, 3, Reason.INSUFFICIENT_STOCK),)),
        ((CANCEL,), ()),
    ],
    ids=["rejected", "cancelled", "late", "not even created"],
)
def test_a_shortfall_lists_what_was_paid_for(known: Given, shortages: tuple[Shortage, ...]) -> None:
    """Units that were paid for and will not be delivered are listed line by line, as far as the lines are known."""
    decision = given(*known).take(PAY)
    [outcome] = decision.outcomes
    assert isinstance(outcome, ReservationOutcome)
    assert (OutcomeKind.SHORTFALL, shortages) == (outcome.kind, outcome.shortages)


def test_a_late_payment_that_is_refused_cancels_nothing() -> None:
    """The lines stay as they were ordered, so that a person can see what was paid for."""
    books = given(CREATE, EXPIRE, adjusted("p", "SET", 3))
    lines = books.state.orders["o"].lines
    books.take(PAY)
    assert lines == books.state.orders["o"].lines


FIRST, SECOND = paid(payment_id="y1"), paid(payment_id="y2")


@pytest.mark.parametrize(
    "facts",
    [
        (CREATE, FIRST, SECOND),
        (FIRST, CREATE, SECOND),
        (FIRST, SECOND, CREATE),
        (FIRST, SECOND, CREATE, SECOND),
        (CREATE, FIRST, SECOND, FIRST, SECOND),
    ],
)
def test_a_second_payment_is_a_shortfall_and_the_order_is_served(facts: Given) -> None:
    """Money taken twice is published once, with a reason of its own and the second payment as the cause."""
    books = given(*facts)
    outcomes = [outcome for outcome in books.outcomes if isinstance(outcome, ReservationOutcome)]
    [shortfall] = [outcome for outcome in outcomes if outcome.kind is OutcomeKind.SHORTFALL]
    assert (Reason.ALREADY_PAID, SECOND["id"]) == (shortfall.reason, shortfall.cause.event_id)
    assert (Shortage("p", 4, 6, Reason.ALREADY_PAID),) == shortfall.shortages
    assert ((6, 0), OrderStatus.DEDUCTED) == (books.stock(), books.state.orders["o"].status)
    books.check()


@pytest.mark.parametrize("known", [(CREATE,), (), (CANCEL,), (CREATE, EXPIRE)])
@pytest.mark.parametrize(
    ("first", "again"),
    [(FIRST, FIRST), (PAY, SECOND), (FIRST, PAY), (PAY, PAY)],
    ids=["same id", "first without", "second without", "both without"],
)
def test_a_payment_that_cannot_be_told_from_the_first_is_a_duplicate(known: Given, first: Event, again: Event) -> None:
    """The same payment id is a repeat, and without ids on both there is nothing to tell two payments apart by."""
    decision = given(*known, first).take(again)
    assert (Disposition.DUPLICATE, ()) == (decision.disposition, decision.outcomes)


@pytest.mark.parametrize("known", [(CREATE, PAY, CANCEL), (CREATE, CANCEL, PAY), (CANCEL, PAY), (CANCEL, PAY, CREATE)])
def test_a_second_payment_of_a_cancelled_order_is_a_shortfall_without_lines(known: Given) -> None:
    """There is money to give back, though no units are left that it could be for."""
    first = [FIRST if fact is PAY else fact for fact in known]
    [outcome] = given(*first).take(SECOND).outcomes
    assert isinstance(outcome, ReservationOutcome)
    assert (OutcomeKind.SHORTFALL, Reason.ALREADY_PAID, ()) == (outcome.kind, outcome.reason, outcome.shortages)


def test_the_second_payment_serves_the_order_if_the_first_is_withdrawn() -> None:
    """Which payment counts is decided when the order comes."""
    books = given(FIRST, SECOND)
    books.obey(ForgetFact("o", "shop", FIRST["id"]))
    assert [OutcomeKind.DEDUCTED] == [
        found.kind for found in books.take(CREATE).outcomes if isinstance(found, ReservationOutcome)
    ]
