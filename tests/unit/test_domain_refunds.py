"""Refunds: units go back once whichever fact comes first, refusals, repeats and conflicts."""

from collections.abc import Iterator
from itertools import permutations

import pytest

from domain.model import Cause, Disposition, Fact, FactKind, OutcomeKind, Reason, ReservationOutcome
from domain.orders.waiting import content_of
from tests.unit.domain_cases import Event, adjusted, at, cancelled, created, refunded
from tests.unit.order_cases import CANCEL, CREATE, EXPIRE, ORDER_OF_FIVE, PAY, Given, given, given_two


@pytest.mark.parametrize(
    ("known", "refund", "reason"),
    [
        ((CREATE, PAY), refunded({"p": 5}), Reason.REFUND_EXCEEDS_DEDUCTED),
        ((CREATE, PAY), refunded({"x": 1}), Reason.REFUND_EXCEEDS_DEDUCTED),
        ((CREATE, PAY, refunded({"p": 3})), refunded({"p": 2}, "r2"), Reason.REFUND_EXCEEDS_DEDUCTED),
        ((CREATE, PAY, refunded({"p": 3}, restock=False)), refunded({"p": 2}, "r2"), Reason.REFUND_EXCEEDS_DEDUCTED),
        ((CREATE, PAY, cancelled({"p": 3})), refunded({"p": 2}, returned=True), Reason.REFUND_EXCEEDS_DEDUCTED),
        ((CREATE, PAY, CANCEL), refunded({"p": 5}), Reason.REFUND_EXCEEDS_DEDUCTED),
        ((CREATE, PAY, CANCEL), refunded({"p": 5}, restock=False), Reason.REFUND_EXCEEDS_DEDUCTED),
        (
            (CREATE, PAY, refunded({"p": 3}, "r2"), CANCEL),
            refunded({"p": 2}, restock=False),
            Reason.REFUND_EXCEEDS_DEDUCTED,
        ),
        ((created({"p": 11}), PAY), refunded({"p": 1}), Reason.ORDER_REJECTED),
        ((created({"p": 11}), CANCEL), refunded({"p": 1}), Reason.ORDER_REJECTED),
        (
            (CREATE, EXPIRE, adjusted("p", "SET", 1), PAY),
            refunded({"p": 1}),
            Reason.RESERVATION_EXPIRED,
        ),
        (
            (CREATE, PAY, CANCEL, adjusted("p", "SET", 1)),
            refunded({"p": 2}, restock=False),
            Reason.INSUFFICIENT_STOCK,
        ),
        (
            (CREATE, PAY, CANCEL, adjusted("p", "SET", 1)),
            refunded({"p": 5}, restock=False),
            Reason.REFUND_EXCEEDS_DEDUCTED,
        ),
    ],
    ids=[
        "too many",
        "not ordered",
        "after a refund",
        "after one without restock",
        "after a partial cancellation",
        "after the whole cancellation",
        "without restock, beyond the order",
        "without restock, of what was refunded before",
        "rejected",
        "rejected and cancelled",
        "expired",
        "promised to others",
        "too many and promised to others",
    ],
)
def test_a_refund_that_cannot_be_is_refused_whole(known: Given, refund: Event, reason: Reason) -> None:
    """A refund beyond what was deducted and not given back is refused for the first reason and moves nothing."""
    books = given(*known)
    before, lines = books.stock(), books.state.orders["o"].lines
    decision = books.take(refund)
    assert (Disposition.REFUSED, reason, before, ()) == (
        decision.disposition,
        decision.reason,
        books.stock(),
        decision.outcomes,
    )
    assert lines == books.state.orders["o"].lines
    assert Disposition.DUPLICATE is books.take(refund).disposition


@pytest.mark.parametrize("known", [(), (PAY,), (CREATE,), (CANCEL,), (CREATE, CANCEL)])
def test_a_refund_waits_until_the_order_is_created_and_paid(known: Given) -> None:
    """A refund before the payment is remembered and moves nothing."""
    books = given(*known)
    decision = books.take(refunded({"p": 1}))
    assert (Disposition.PARKED, (), ()) == (decision.disposition, decision.entries, decision.outcomes)
    assert Disposition.DUPLICATE is books.take(refunded({"p": 1})).disposition


# The facts of one order of 5 p that is paid, and what is on hand of 10 at the end, whatever comes first.
STORIES = {
    "both events of the same units": ([cancelled({"p": 2}), refunded({"p": 2})], 7),
    "more cancelled than refunded": ([cancelled({"p": 3}), refunded({"p": 2})], 8),
    "more refunded than cancelled": ([cancelled({"p": 2}), refunded({"p": 4})], 9),
    "returned besides": ([cancelled({"p": 2}), refunded({"p": 2}, returned=True)], 9),
    "refunded without restock": ([cancelled({"p": 2}), refunded({"p": 2}, restock=False)], 5),
    "in two refunds": ([cancelled({"p": 2}), refunded({"p": 1}), refunded({"p": 1}, "r2", restock=False)], 6),
    "cancelled whole": ([CANCEL, refunded({"p": 5})], 10),
    "in part, then whole": ([cancelled({"p": 2}), CANCEL, refunded({"p": 2})], 10),
    "in part, then whole, without restock": ([cancelled({"p": 2}), CANCEL, refunded({"p": 2}, restock=False)], 8),
    "in part, then whole, returned": ([cancelled({"p": 2}), CANCEL, refunded({"p": 2}, returned=True)], 10),
}


def _permutations() -> Iterator[object]:
    for name, (facts, on_hand) in STORIES.items():
        for number, order in enumerate(permutations((ORDER_OF_FIVE, PAY, *facts))):
            yield pytest.param(order, on_hand, id=f"{name} {number}")


@pytest.mark.parametrize(("facts", "on_hand"), [*_permutations()])
def test_units_come_back_once_whichever_fact_comes_first(facts: Given, on_hand: int) -> None:
    """Never more comes back than the customer gave up, no fact is refused, and any permutation ends alike."""
    books = given_two(*facts)
    assert (on_hand, 0) == books.stock("p")
    refusals = {d.reason for d in books.decisions} | {fact.reason for d in books.decisions for fact in d.resolved}
    # A payment of an order that was cancelled before is a shortfall.
    assert refusals <= {None, Reason.ORDER_CANCELLED}
    books.check()


@pytest.mark.parametrize("known", [(PAY, ORDER_OF_FIVE), (ORDER_OF_FIVE,), ()], ids=["deducted", "reserved", "waiting"])
@pytest.mark.parametrize(
    ("first", "again", "disposition"),
    [
        (cancelled({"p": 1}, cancellation_id="c"), cancelled({"p": 1}, name="2", cancellation_id="c"), "duplicate"),
        (cancelled({"p": 1}, cancellation_id="c"), cancelled({"p": 2}, name="2", cancellation_id="c"), "conflict"),
        (refunded({"p": 1}), refunded({"p": 1}), "duplicate"),
        (refunded({"p": 1}), refunded({"p": 2}), "conflict"),
        (refunded({"p": 1}), refunded({"q": 1}), "conflict"),
        (refunded({"p": 1}), refunded({"p": 1}, restock=False), "conflict"),
        (refunded({"p": 1}), refunded({"p": 1}, returned=True), "conflict"),
    ],
)
def test_a_business_id_with_other_content_is_a_conflict(
    known: Given, first: Event, again: Event, disposition: str
) -> None:
    """A refund or cancellation counts once by its id; with other content it is a conflict that moves nothing."""
    books = given_two(*known, first)
    before = books.stock("p")
    decision = books.take(again)
    assert (disposition, before, None) == (decision.disposition, books.stock("p"), decision.order)


@pytest.mark.parametrize(
    ("first", "again", "named"),
    [
        (refunded({"p": 1}), refunded({"p": 2}), "refund r"),
        (
            cancelled({"p": 1}, cancellation_id="c"),
            cancelled({"p": 2}, name="2", cancellation_id="c"),
            "cancellation c",
        ),
        (cancelled({"p": 1}), cancelled({"p": 2}), "cancellation cancelled-o"),
    ],
    ids=["refund", "cancellation", "cancellation without an id"],
)
def test_a_conflict_names_what_was_received_before(first: Event, again: Event, named: str) -> None:
    """The dead letter's reader finds it by that name."""
    expected = f"{named} of order o was received before with other content"
    assert expected == given_two(ORDER_OF_FIVE, first).take(again).message


@pytest.mark.parametrize(
    "again",
    [
        refunded({"p": 1}),
        refunded({"p": 3}, restock=False),
        cancelled({"p": 1}, cancellation_id="c"),
        cancelled({"q": 2}, name="2", cancellation_id="c"),
        cancelled({"p": 4}),
    ],
)
def test_a_fact_that_was_judged_without_a_digest_is_a_duplicate(again: Event) -> None:
    """What it said is not known: a repeat is taken for the same, never for a conflict, and moves nothing."""
    books = given_two(ORDER_OF_FIVE, PAY)
    judged = dict.fromkeys(("refund:r", "cancellation_id:c", "cancellation:shop:cancelled-o"), "")
    books.state.orders["o"] = books.state.orders["o"]._replace(seen=judged)
    decision = books.take(again)
    assert (Disposition.DUPLICATE, None, (5, 0)) == (decision.disposition, decision.order, books.stock("p"))


def test_the_digest_of_a_fact_does_not_change() -> None:
    """It is stored with the order: computed in another way, every repeat of a judged refund would be a conflict."""
    fact = Fact(FactKind.REFUNDED, Cause("shop", "r", at(0)), {"q": 2, "p": 1}, "r")
    assert "8dd257b223e28e70" == content_of(fact)


def test_two_cancellations_with_different_ids_both_count() -> None:
    """The id, not the lines, tells one partial cancellation from another."""
    books = given_two(ORDER_OF_FIVE, *(cancelled({"p": 1}, name=name, cancellation_id=name) for name in ("1", "2")))
    assert (10, 3) == books.stock("p")


def test_a_refund_that_waited_is_judged_with_the_payment() -> None:
    """The payment deducts, then the waiting refund restocks; each entry names its own event."""
    books = given(CREATE, refunded({"p": 1}))
    decision = books.take(PAY)
    assert [("OUT", "paid-o"), ("IN", "refunded-o-r")] == [(e.type, e.cause.event_id) for e in decision.entries]
    assert [("refunded-o-r", Disposition.APPLIED)] == [(f.cause.event_id, f.disposition) for f in decision.resolved]
    assert (7, 0) == books.stock()


def test_a_refund_without_restock_moves_no_stock() -> None:
    """Units that do not go back on hand are counted, and nothing is published."""
    books = given(CREATE, PAY)
    decision = books.take(refunded({"p": 2}, restock=False))
    assert (Disposition.APPLIED, (), (), (6, 0)) == (
        decision.disposition,
        decision.entries,
        decision.outcomes,
        books.stock(),
    )


@pytest.mark.parametrize(
    "known",
    [
        (CREATE, PAY, CANCEL),
        (CREATE, CANCEL, PAY),
        (CANCEL, CREATE, PAY),
        (CANCEL, PAY, CREATE),
        (PAY, CANCEL, CREATE),
        (PAY, CREATE, CANCEL),
        (CREATE, EXPIRE, CANCEL, PAY),
    ],
)
def test_a_refund_without_restock_after_the_whole_cancellation_takes_its_units_off_again(known: Given) -> None:
    """Units that the cancellation had put back on hand are deducted again, whatever the order of the facts."""
    books = given(*known)
    decision = books.take(refunded({"p": 2}, restock=False))
    [outcome] = decision.outcomes
    assert isinstance(outcome, ReservationOutcome)
    [entry] = decision.entries
    assert ("OUT", "refunded-o-r", OutcomeKind.DEDUCTED, {"p": 2}, "refunded-o-r", (8, 0)) == (
        entry.type,
        entry.cause.event_id,
        outcome.kind,
        outcome.lines,
        outcome.cause.event_id,
        books.stock(),
    )


def test_units_that_are_just_available_are_taken_off_again() -> None:
    """The last unit that nobody was promised can be taken off."""
    books = given(CREATE, PAY, CANCEL, adjusted("p", "SET", 2))
    assert Disposition.APPLIED is books.take(refunded({"p": 2}, restock=False)).disposition
    assert (0, 0) == books.stock()


@pytest.mark.parametrize(
    "known", [(), (CREATE,), (CREATE, PAY), (CREATE, PAY, CANCEL), (created({"p": 11}),), (CREATE, EXPIRE)]
)
def test_a_refund_without_lines_is_accepted_and_moves_nothing(known: Given) -> None:
    """Shipping costs are given back in any state of the order; the refund counts once, and its id is taken."""
    books = given(*known)
    before = books.stock()
    decision = books.take(refunded({}))
    assert (Disposition.APPLIED, (), (), before) == (
        decision.disposition,
        decision.entries,
        decision.outcomes,
        books.stock(),
    )
    assert Disposition.DUPLICATE is books.take(refunded({})).disposition
    assert Disposition.CONFLICT is books.take(refunded({"p": 1})).disposition
