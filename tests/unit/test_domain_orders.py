"""Orders, given/when/then: every cell of the design's table, refusals in their order, exact line arithmetic."""

from collections.abc import Iterator
from copy import deepcopy
from itertools import permutations
from typing import NamedTuple

import pytest

from domain.commands import ExpireOrder, ForgetFact
from domain.decide import decide
from domain.lines import Line
from domain.model import (
    Cause,
    Disposition,
    EntryType,
    Fact,
    FactKind,
    LatePaymentPolicy,
    OrderStatus,
    OutcomeKind,
    Policy,
    Reason,
    ReferenceType,
    ReservationOutcome,
    Shortage,
)
from domain.orders.waiting import content_of
from tests.unit.domain_cases import (
    Books,
    Event,
    adjusted,
    at,
    cancelled,
    command,
    created,
    event,
    paid,
    product,
    refunded,
)

EXPIRE = "expire"

CREATE = created({"p": 4})
PAY = paid()
CANCEL = cancelled()

Given = tuple[Event | str, ...]


def given(*events: Event | str, on_hand: int = 10, policy: Policy | None = None) -> Books:
    """Return a shop with `on_hand` units of p where the events happened; EXPIRE sweeps the order."""
    books = Books(product("p", on_hand, 0), policy=policy)
    for published in events:
        if isinstance(published, str):
            books.obey(ExpireOrder("o", at(24 * 60)))
        else:
            books.take(published)
    return books


class Cell(NamedTuple):
    """One cell of the table: what was known, what comes, and what must follow."""

    name: str
    given: Given
    when: Event
    disposition: str
    outcome: str | None
    reason: str | None
    entries: str
    stock: tuple[int, int]
    status: str
    on_hand: int = 10
    late: str = "reserve_again"


CELLS = [
    Cell("nothing, created", (), CREATE, "applied", "reserved", None, "RESERVE 4", (10, 4), "reserved"),
    Cell(
        "nothing, created, scarce",
        (),
        CREATE,
        "refused",
        "rejected",
        "insufficient_stock",
        "",
        (3, 0),
        "rejected",
        on_hand=3,
    ),
    Cell("nothing, paid", (), PAY, "parked", None, None, "", (10, 0), "pending"),
    Cell("nothing, cancelled", (), CANCEL, "parked", None, None, "", (10, 0), "pending"),
    Cell("paid, created", (PAY,), CREATE, "applied", "deducted", None, "RESERVE 4, OUT 4", (6, 0), "deducted"),
    Cell(
        "paid, created, scarce",
        (PAY,),
        CREATE,
        "refused",
        "shortfall",
        "insufficient_stock",
        "",
        (3, 0),
        "rejected",
        on_hand=3,
    ),
    Cell("paid, paid", (PAY,), PAY, "duplicate", None, None, "", (10, 0), "pending"),
    Cell("paid, cancelled", (PAY,), CANCEL, "parked", None, None, "", (10, 0), "pending"),
    Cell("paid and cancelled, created", (PAY, CANCEL), CREATE, "applied", "released", None, "", (10, 0), "released"),
    Cell("cancelled, created", (CANCEL,), CREATE, "applied", "released", None, "", (10, 0), "released"),
    Cell("cancelled, paid", (CANCEL,), PAY, "refused", "shortfall", "order_cancelled", "", (10, 0), "pending"),
    Cell("cancelled, cancelled", (CANCEL,), CANCEL, "duplicate", None, None, "", (10, 0), "pending"),
    Cell("reserved, created", (CREATE,), CREATE, "duplicate", None, None, "", (10, 4), "reserved"),
    Cell("reserved, paid", (CREATE,), PAY, "applied", "deducted", None, "OUT 4", (6, 0), "deducted"),
    Cell("reserved, cancelled", (CREATE,), CANCEL, "applied", "released", None, "RELEASE 4", (10, 0), "released"),
    Cell("rejected, created", (CREATE,), CREATE, "duplicate", None, None, "", (3, 0), "rejected", on_hand=3),
    Cell(
        "rejected, paid",
        (CREATE,),
        PAY,
        "refused",
        "shortfall",
        "order_rejected",
        "",
        (3, 0),
        "rejected",
        on_hand=3,
    ),
    Cell("rejected, cancelled", (CREATE,), CANCEL, "applied", "released", None, "", (3, 0), "released", on_hand=3),
    Cell("deducted, created", (CREATE, PAY), CREATE, "duplicate", None, None, "", (6, 0), "deducted"),
    Cell("deducted, paid", (CREATE, PAY), PAY, "duplicate", None, None, "", (6, 0), "deducted"),
    Cell("deducted, cancelled", (CREATE, PAY), CANCEL, "applied", "restocked", None, "IN 4", (10, 0), "restocked"),
    Cell(
        "deducted and refunded, cancelled",
        (CREATE, PAY, refunded({"p": 3})),
        CANCEL,
        "applied",
        "restocked",
        None,
        "IN 1",
        (10, 0),
        "restocked",
    ),
    Cell("expired, created", (CREATE, EXPIRE), CREATE, "duplicate", None, None, "", (10, 0), "expired"),
    Cell(
        "expired, paid",
        (CREATE, EXPIRE),
        PAY,
        "applied",
        "deducted",
        None,
        "RESERVE 4, OUT 4",
        (6, 0),
        "deducted",
    ),
    Cell(
        "expired, paid, sold meanwhile",
        (CREATE, EXPIRE, adjusted("p", "SET", 3)),
        PAY,
        "refused",
        "shortfall",
        "reservation_expired",
        "",
        (3, 0),
        "expired",
    ),
    Cell(
        "expired, paid, never late",
        (CREATE, EXPIRE),
        PAY,
        "refused",
        "shortfall",
        "reservation_expired",
        "",
        (10, 0),
        "expired",
        late="shortfall",
    ),
    Cell("expired, cancelled", (CREATE, EXPIRE), CANCEL, "applied", "released", None, "", (10, 0), "released"),
    Cell("released, created", (CREATE, CANCEL), CREATE, "duplicate", None, None, "", (10, 0), "released"),
    Cell(
        "released, paid",
        (CREATE, CANCEL),
        PAY,
        "refused",
        "shortfall",
        "order_cancelled",
        "",
        (10, 0),
        "released",
    ),
    Cell("released, cancelled", (CREATE, CANCEL), CANCEL, "duplicate", None, None, "", (10, 0), "released"),
    Cell("restocked, created", (CREATE, PAY, CANCEL), CREATE, "duplicate", None, None, "", (10, 0), "restocked"),
    Cell("restocked, paid", (CREATE, PAY, CANCEL), PAY, "duplicate", None, None, "", (10, 0), "restocked"),
    Cell("restocked, cancelled", (CREATE, PAY, CANCEL), CANCEL, "duplicate", None, None, "", (10, 0), "restocked"),
    Cell(
        "rejected and cancelled, paid",
        (CREATE, CANCEL),
        PAY,
        "refused",
        "shortfall",
        "order_cancelled",
        "",
        (3, 0),
        "released",
        on_hand=3,
    ),
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_each_cell_of_the_table(cell: Cell) -> None:
    """What was known and what comes decide disposition, outcome, reason, ledger, stock and status."""
    books = given(*cell.given, on_hand=cell.on_hand, policy=Policy(late_payment=LatePaymentPolicy(cell.late)))
    decision = books.take(cell.when)
    reported = [outcome for outcome in decision.outcomes if isinstance(outcome, ReservationOutcome)]
    seen = (
        decision.disposition,
        [(outcome.kind, outcome.reason) for outcome in reported],
        decision.reason,
        ", ".join(f"{entry.type} {entry.quantity}" for entry in decision.entries),
        books.stock(),
        books.state.orders["o"].status,
    )
    outcomes = [] if cell.outcome is None else [(cell.outcome, cell.reason)]
    assert (cell.disposition, outcomes, cell.reason, cell.entries, cell.stock, cell.status) == seen
    books.check()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_no_cell_changes_what_it_was_given(cell: Cell) -> None:
    """Deciding is pure: the state and the command are afterwards as they were, and deciding again says the same."""
    books = given(*cell.given, on_hand=cell.on_hand, policy=Policy(late_payment=LatePaymentPolicy(cell.late)))
    asked = command(cell.when)
    before = deepcopy((books.state, asked))
    first = decide(books.state, asked, books.policy)
    assert before == (books.state, asked)
    assert first == decide(books.state, asked, books.policy)


@pytest.mark.parametrize(
    "known",
    [(CREATE,), (CREATE, PAY), (CREATE, CANCEL), (CREATE, EXPIRE), (PAY, CREATE), (CREATE, PAY, CANCEL)],
    ids=["reserved", "deducted", "released", "expired", "paid first", "restocked"],
)
@pytest.mark.parametrize("other", [{"p": 3}, {"q": 4}, {"p": 4, "q": 1}], ids=["quantity", "product", "one more"])
def test_an_order_created_again_with_other_lines_is_a_conflict(known: Given, other: dict[str, int]) -> None:
    """The same order with other lines is not a repeat: it is a conflict and moves nothing, in any state."""
    books = given(*known)
    before = books.stock()
    decision = books.take(created(other))
    assert (Disposition.CONFLICT, before, ()) == (decision.disposition, books.stock(), decision.outcomes)


# --- created ------------------------------------------------------------------------------------


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


# --- cancellations of lines ---------------------------------------------------------------------

ORDER_OF_FIVE = created({"p": 5, "q": 2})


def _five(*events: Event | str) -> Books:
    books = Books(product("p", 10, 0), product("q", 10, 0))
    for published in events:
        if isinstance(published, str):
            books.obey(ExpireOrder("o", at(24 * 60)))
        else:
            books.take(published)
    return books


def _line(books: Books, product_id: str = "p") -> Line:
    return books.state.orders["o"].lines[product_id]


@pytest.mark.parametrize(
    ("events", "stock", "line"),
    [
        ((ORDER_OF_FIVE, cancelled({"p": 2})), (10, 3), Line(5, cancelled=2, reserved=5, released=2)),
        ((cancelled({"p": 2}), ORDER_OF_FIVE), (10, 3), Line(5, cancelled=2, reserved=3)),
        ((cancelled({"p": 2}), PAY, ORDER_OF_FIVE), (7, 0), Line(5, cancelled=2, reserved=3, deducted=3)),
        (
            (ORDER_OF_FIVE, cancelled({"p": 2}), PAY),
            (7, 0),
            Line(5, cancelled=2, reserved=5, released=2, deducted=3),
        ),
        ((ORDER_OF_FIVE, PAY, cancelled({"p": 2})), (7, 0), Line(5, cancelled=2, reserved=5, deducted=5, restocked=2)),
        (
            (ORDER_OF_FIVE, cancelled({"p": 2}), EXPIRE, PAY),
            (7, 0),
            Line(5, cancelled=2, reserved=8, released=5, deducted=3),
        ),
        (
            (ORDER_OF_FIVE, PAY, refunded({"p": 1}), cancelled({"p": 2}), refunded({"p": 2}, "r2")),
            (8, 0),
            Line(5, cancelled=2, reserved=5, deducted=5, restocked=3, refunded=3),
        ),
        (
            (ORDER_OF_FIVE, PAY, cancelled({"p": 2}), refunded({"p": 3}, returned=True)),
            (10, 0),
            Line(5, cancelled=2, reserved=5, deducted=5, restocked=5, returned=3),
        ),
        (
            (ORDER_OF_FIVE, PAY, cancelled({"p": 2}), refunded({"p": 2}, restock=False)),
            (5, 0),
            Line(5, cancelled=2, reserved=7, deducted=7, restocked=2, not_restocked=2, refunded=2),
        ),
        (
            (ORDER_OF_FIVE, PAY, refunded({"p": 1}, restock=False), refunded({"p": 2}, "r2")),
            (7, 0),
            Line(5, reserved=5, deducted=5, restocked=2, not_restocked=1, refunded=3),
        ),
        (
            (ORDER_OF_FIVE, PAY, refunded({"p": 1}, restock=False), CANCEL),
            (9, 0),
            Line(5, cancelled=5, reserved=5, deducted=5, restocked=4, not_restocked=1, refunded=1),
        ),
        (
            (ORDER_OF_FIVE, PAY, CANCEL, refunded({"p": 1}, restock=False)),
            (9, 0),
            Line(5, cancelled=5, reserved=6, deducted=6, restocked=5, not_restocked=1, refunded=1),
        ),
    ],
    ids=[
        "after created",
        "before created",
        "before created and paid",
        "created, cancelled, paid",
        "after paid",
        "then expired and paid late",
        "with refunds",
        "with returned units",
        "and a refund without restock",
        "refund without restock",
        "refund without restock, then whole cancellation",
        "whole cancellation, then refund without restock",
    ],
)
def test_lines_are_counted_exactly(events: Given, stock: tuple[int, int], line: Line) -> None:
    """Partial cancellations and refunds move exactly their units, and every unit is counted once."""
    books = _five(*events)
    assert (stock, line) == (books.stock("p"), _line(books))
    books.check()


@pytest.mark.parametrize("items", [{}, {"items": [{"product_id": "p", "quantity": 1}]}], ids=["whole", "partial"])
@pytest.mark.parametrize("known", [(CREATE,), (CREATE, PAY)], ids=["reserved", "deducted"])
def test_the_ledger_says_why_an_order_was_cancelled(known: Given, items: dict[str, object]) -> None:
    """The reason of the cancellation is kept in the entries it caused, as with an adjustment."""
    decision = given(*known).take(event("order.cancelled", "c", 2, order_id="o", reason="changed their mind", **items))
    assert ["changed their mind"] == [entry.reason for entry in decision.entries]


def test_cancelling_every_unit_line_by_line_releases_the_order() -> None:
    """An order without wanted units is released, and a payment for it is a shortfall."""
    books = _five(ORDER_OF_FIVE, cancelled({"p": 5}), cancelled({"q": 2}, name="2"))
    assert OrderStatus.RELEASED is books.state.orders["o"].status
    assert Reason.ORDER_CANCELLED is books.take(PAY).reason


@pytest.mark.parametrize(
    "known",
    [(ORDER_OF_FIVE,), (ORDER_OF_FIVE, PAY), (cancelled({"p": 2}),)],
    ids=["reserved", "deducted", "waiting"],
)
def test_a_partial_cancellation_counts_once(known: Given) -> None:
    """The same partial cancellation, delivered again, is a duplicate, even while it waits for its order."""
    part = cancelled({"p": 2})
    books = _five(*known)
    books.take(part)
    assert Disposition.DUPLICATE is books.take(part).disposition


@pytest.mark.parametrize("lines", [{"p": 6}, {"x": 1}, {"p": 1, "q": 3}], ids=["too many", "not ordered", "one line"])
@pytest.mark.parametrize("known", [(ORDER_OF_FIVE,), (ORDER_OF_FIVE, PAY)], ids=["reserved", "deducted"])
def test_a_cancellation_beyond_the_order_is_refused_whole(known: Given, lines: dict[str, int]) -> None:
    """One line too much refuses the whole partial cancellation, nothing moves, and the refusal sticks."""
    books = _five(*known)
    before = (books.stock("p"), books.stock("q"))
    decision = books.take(cancelled(lines))
    assert (Reason.CANCELLATION_EXCEEDS_ORDER, before) == (decision.reason, (books.stock("p"), books.stock("q")))
    assert Disposition.DUPLICATE is books.take(cancelled(lines)).disposition


def test_an_early_cancellation_that_was_refused_stays_refused() -> None:
    """A partial cancellation that came before its order and did not fit is not judged again."""
    books = _five(cancelled({"p": 6}), ORDER_OF_FIVE)
    assert Disposition.DUPLICATE is books.take(cancelled({"p": 6})).disposition


# --- refunds ------------------------------------------------------------------------------------


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
    books = _five(*facts)
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
    books = _five(*known, first)
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
    assert expected == _five(ORDER_OF_FIVE, first).take(again).message


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
    books = _five(ORDER_OF_FIVE, PAY)
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
    books = _five(ORDER_OF_FIVE, *(cancelled({"p": 1}, name=name, cancellation_id=name) for name in ("1", "2")))
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


# --- shortfalls ---------------------------------------------------------------------------------


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


# --- deadlines of facts -------------------------------------------------------------------------


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
