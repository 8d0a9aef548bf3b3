"""Orders, given/when/then: reserved whole or not at all, attributed, expired, resolved when early facts waited."""

import pytest

from domain.commands import ExpireOrder, ForgetFact
from domain.model import (
    Cause,
    Disposition,
    EntryType,
    OrderStatus,
    OutcomeKind,
    Reason,
    ReferenceType,
    ReservationOutcome,
    Shortage,
)
from tests.unit.domain_cases import Books, Event, adjusted, at, cancelled, created, product, refunded
from tests.unit.order_cases import CANCEL, CREATE, EXPIRE, PAY, Given, given


def test_a_rejected_order_stays_rejected_when_stock_came_in_meanwhile() -> None:
    """A refusal sticks: the redelivered order is a duplicate, however much stock there is by then."""
    books = given(CREATE, adjusted("p", "ADD", 50), on_hand=3)
    decision = books.take(CREATE)
    assert (Disposition.DUPLICATE, OrderStatus.REJECTED) == (decision.disposition, books.state.orders["o"].status)


def test_all_lines_are_reserved_or_none() -> None:
    """One short line refuses the whole order, and no unit of the other lines moves."""
    books = Books(product("p", 10), product("q", 1), created({"p": 4, "q": 2}))
    assert ((10, 0), (1, 0)) == (books.stock("p"), books.stock("q"))


def test_a_refusal_lists_every_line_that_is_short() -> None:
    """The outcome names each short line with what was asked for and what is there; unknown products come first."""
    books = Books(product("p", 3), product("q", 1), product("r", 9))
    decision = books.take(created({"p": 4, "x": 1, "r": 2, "q": 2}))
    [outcome] = [found for found in decision.outcomes if isinstance(found, ReservationOutcome)]
    assert (
        Shortage("x", 1, 0, Reason.UNKNOWN_PRODUCT),
        Shortage("p", 4, 3, Reason.INSUFFICIENT_STOCK),
        Shortage("q", 2, 1, Reason.INSUFFICIENT_STOCK),
    ) == outcome.shortages


def test_only_products_that_expiry_could_help_are_short() -> None:
    """Expiring holds cannot help an unknown product, so it is not among the short ones."""
    books = Books(product("p", 3))
    assert {"p": 1} == books.take(created({"p": 4, "x": 1})).short


def test_exactly_all_the_stock_can_be_ordered() -> None:
    """The last unit can be sold."""
    books = given(created({"p": 10}))
    assert (10, 10) == books.stock()


def test_an_order_expires_its_time_to_live_after_it_was_placed() -> None:
    """The deadline counts from the event's own time."""
    books = given(created({"p": 1}, minutes=7))
    assert at(22) == books.state.orders["o"].expires_at


def test_entries_name_the_order_and_its_event() -> None:
    """A ledger entry says for which order it was made and by which event."""
    [entry] = given(CREATE).decisions[-1].entries
    assert (ReferenceType.ORDER, "o", "created-o", EntryType.RESERVE) == (
        entry.reference_type,
        entry.reference_id,
        entry.cause.event_id,
        entry.type,
    )


@pytest.mark.parametrize(
    ("known", "when"),
    [
        ((), CREATE),
        ((CREATE,), PAY),
        ((CREATE,), CANCEL),
        ((CREATE,), cancelled({"p": 1})),
        ((CREATE, PAY), CANCEL),
        ((CREATE, PAY), cancelled({"p": 1})),
        ((CREATE, PAY), refunded({"p": 1})),
        ((CREATE, EXPIRE), PAY),
        ((CREATE, PAY, CANCEL), refunded({"p": 2}, restock=False)),
    ],
    ids=[
        "reserved",
        "deducted",
        "released",
        "released in part",
        "restocked",
        "restocked in part",
        "refunded",
        "paid late",
        "taken off again",
    ],
)
def test_whatever_moves_is_attributed_to_the_event_that_moved_it(known: Given, when: Event) -> None:
    """Source, id and time stand in the entries and the outcome, which names the order and its user as well."""
    decision = given(*known).take(when)
    cause = Cause("shop", when["id"], when["occurred_at"])
    assert {(cause, ReferenceType.ORDER, "o")} == {
        (e.cause, e.reference_type, e.reference_id) for e in decision.entries
    }
    assert [(ReferenceType.ORDER, "o", "u", cause)] == [
        (outcome.reference_type, outcome.reference_id, outcome.user_id, outcome.cause)
        for outcome in decision.outcomes
        if isinstance(outcome, ReservationOutcome)
    ]


def test_an_expiry_is_attributed_to_the_deadline() -> None:
    """The worker is its source, and it happened when the hold was due."""
    decision = given(CREATE).obey(ExpireOrder("o", at(60)))
    cause = Cause("inventory-worker", f"expired:order:o:{at(15).isoformat()}", at(15))
    assert [cause] == [entry.cause for entry in decision.entries]
    assert [cause] == [outcome.cause for outcome in decision.outcomes]


def test_an_order_keeps_its_user_and_its_cart() -> None:
    """Each event that changes it is one version; a duplicate is none."""
    books = given(PAY, cancelled({"p": 1}), created({"p": 4}, cart="c"), CREATE, refunded({"p": 1}))
    order = books.state.orders["o"]
    assert ("u", "c", OrderStatus.DEDUCTED, True, 4) == (
        order.user_id,
        order.cart_id,
        order.status,
        order.paid,
        order.version,
    )


def test_a_withdrawn_fact_is_one_more_version() -> None:
    """A writer that has the order as it was before notices the change."""
    books = given(PAY)
    assert 1 == books.state.orders["o"].version
    books.obey(ForgetFact("o", "shop", "paid-o"))
    assert 2 == books.state.orders["o"].version


@pytest.mark.parametrize(
    ("known", "status"),
    [((PAY, CREATE), "applied"), ((CANCEL, CREATE), "applied"), ((cancelled({"p": 5}), CREATE), "refused")],
    ids=["payment", "cancellation", "too large a cancellation"],
)
def test_the_order_resolves_the_facts_that_waited_for_it(known: Given, status: str) -> None:
    """When the order comes, each early fact is reported with what became of it, and no longer waits."""
    books = given(*known)
    [fact] = books.decisions[-1].resolved
    early = known[0]
    assert isinstance(early, dict)
    assert (early["id"], status, ()) == (
        fact.cause.event_id,
        fact.disposition,
        books.state.orders["o"].waiting,
    )


def test_a_withdrawn_fact_has_no_effect() -> None:
    """After its deadline a payment no longer waits, and the order that comes later is only reserved."""
    books = given(PAY)
    assert Disposition.APPLIED is books.obey(ForgetFact("o", "shop", "paid-o")).disposition
    books.take(CREATE)
    assert OrderStatus.RESERVED is books.state.orders["o"].status


def test_a_cancellation_that_a_payment_met_cannot_be_withdrawn() -> None:
    """Once a shortfall says that the order was cancelled, the order is released when it comes, never deducted."""
    books = given(CANCEL)
    shortfall = books.take(PAY)
    assert [(CANCEL["id"], Disposition.APPLIED)] == [(f.cause.event_id, f.disposition) for f in shortfall.resolved]
    assert Disposition.DUPLICATE is books.obey(ForgetFact("o", "shop", CANCEL["id"])).disposition
    assert Disposition.DUPLICATE is books.take(CANCEL).disposition
    books.take(CREATE)
    assert [OutcomeKind.SHORTFALL, OutcomeKind.RELEASED] == [
        outcome.kind for outcome in books.outcomes if isinstance(outcome, ReservationOutcome)
    ]


@pytest.mark.parametrize(
    "asked",
    [ForgetFact("o", "shop", "other"), ForgetFact("o", "other", "paid-o"), ForgetFact("x", "shop", "paid-o")],
    ids=["other event", "other source", "other order"],
)
def test_withdrawing_what_does_not_wait_is_a_duplicate(asked: ForgetFact) -> None:
    """Only the fact with this source and id on this order is withdrawn."""
    assert Disposition.DUPLICATE is given(PAY).obey(asked).disposition
