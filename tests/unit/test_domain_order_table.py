"""Orders: every cell of the design's table of what was known and what comes."""

from copy import deepcopy
from typing import NamedTuple

import pytest

from domain.decide import decide
from domain.model import Disposition, LatePaymentPolicy, Policy, ReservationOutcome
from tests.unit.domain_cases import Event, adjusted, command, created, refunded
from tests.unit.order_cases import CANCEL, CREATE, EXPIRE, PAY, Given, given


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
