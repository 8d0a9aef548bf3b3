"""Corrections that callers wait for, given/when/then: creating products, and several at once."""

import functools

import pytest

from domain.commands import AdjustMany, AdjustStock
from domain.model import (
    Cause,
    Decision,
    Disposition,
    EntryType,
    LedgerEntry,
    Operation,
    OrderStatus,
    Policy,
    Product,
    Reason,
    ReferenceType,
    StockAlert,
    StockStatus,
)
from tests.unit.domain_cases import Books, at, created
from tests.unit.request_cases import NOW, given, refused

adjustment = functools.partial(
    AdjustStock, reason="count", operator="ann", reference_type=ReferenceType.IMPORT, create=True
)


def cause(event_id: str = "1") -> Cause:
    """Return the cause of one correction."""
    return Cause("api", event_id, at(10))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (adjustment(cause(), "x", Operation.ADD, 5, create=False), refused(Reason.UNKNOWN_PRODUCT)),
        (adjustment(cause(), "x", Operation.SUBTRACT, 5), refused(Reason.UNKNOWN_PRODUCT)),
        (
            adjustment(cause(), "x", Operation.SET, 5, expected_version=1),
            Decision(Disposition.REFUSED, Reason.STALE_VERSION, "the product does not exist"),
        ),
    ],
    ids=["not asked for", "units to subtract", "a version is expected"],
)
def test_an_adjustment_does_not_create_a_product(asked: AdjustStock, expected: Decision) -> None:
    """It does so only on demand, and where it says what the product starts with."""
    assert expected == given().obey(asked)


@pytest.mark.parametrize(
    ("asked", "on_hand", "threshold", "entries"),
    [
        (adjustment(cause(), "x", Operation.ADD, 25), 25, 7, 1),
        (adjustment(cause(), "x", Operation.SET, 25, threshold=3), 25, 3, 1),
        (adjustment(cause(), "x", Operation.SET, 1, threshold=0), 1, 0, 1),
        (adjustment(cause(), "x", None, threshold=0), 0, 0, 0),
    ],
    ids=["added", "set, with a threshold", "set to one unit", "a threshold only"],
)
def test_an_adjustment_creates_a_product(asked: AdjustStock, on_hand: int, threshold: int, entries: int) -> None:
    """With its stock as the first entry, attributed like any correction, and the shop's threshold unless it says."""
    books = Books(policy=Policy(default_threshold=7))
    decision = books.obey(asked)
    assert Disposition.APPLIED is decision.disposition
    alert = StockStatus.OK if on_hand else StockStatus.OUT
    assert Product("x", on_hand, 0, threshold, alert, 1, entries) == books.state.products["x"]
    first = LedgerEntry(
        *("x", 1, EntryType.ADJUST, on_hand, 0, on_hand, 0, 0, ReferenceType.IMPORT, "1", "ann", "count", asked.cause)
    )
    assert (first,) * entries == decision.entries
    assert ([] if on_hand else [StockAlert(alert, books.state.products["x"], asked.cause)]) == list(decision.outcomes)


def test_adjustments_build_on_each_other() -> None:
    """Each sees what those before it left; two edges of one product are two events, each with its own cause."""
    books = given()
    out, back = adjustment(cause("out"), "p", Operation.SET, 0), adjustment(cause("back"), "p", Operation.ADD, 3)
    new = adjustment(cause("new"), "x", Operation.ADD, 4, threshold=0)
    decision = books.obey(AdjustMany(NOW, (out, back, new), all_or_nothing=True))
    assert (Disposition.APPLIED, None) == (decision.disposition, decision.reason)
    assert {"p": (3, 0), "x": (4, 0)} == {name: books.stock(name) for name in decision.products}
    assert ["out", "back", "new"] == [entry.cause.event_id for entry in decision.entries]
    assert [("out", StockStatus.OUT), ("back", StockStatus.OK)] == [
        (alert.cause.event_id, alert.severity) for alert in decision.outcomes if isinstance(alert, StockAlert)
    ]
    assert [Disposition.APPLIED] * 3 == [part.disposition for part in decision.parts]
    books.check()


def test_a_product_created_among_adjustments_has_the_shops_threshold() -> None:
    """As if it were created by itself."""
    books = Books(policy=Policy(default_threshold=7))
    books.obey(AdjustMany(NOW, (adjustment(cause(), "x", Operation.ADD, 9),), all_or_nothing=False))
    assert 7 == books.state.products["x"].threshold


@pytest.mark.parametrize("all_or_nothing", [True, False])
def test_adjustments_are_applied_together_or_each_by_itself(*, all_or_nothing: bool) -> None:
    """Where one is refused, the answer still says of each what it came to."""
    books = given(created({"p": 4}))
    good, bad = adjustment(cause("good"), "q", Operation.ADD, 5), adjustment(cause("bad"), "p", Operation.SET, 1)
    decision = books.obey(AdjustMany(NOW, (good, bad), all_or_nothing=all_or_nothing))
    assert [None, Reason.BELOW_RESERVED] == [part.reason for part in decision.parts]
    if all_or_nothing:
        assert Decision(Disposition.REFUSED, Reason.ADJUSTMENT_REFUSED, parts=decision.parts) == decision
    else:
        assert (Disposition.APPLIED, {"q"}) == (decision.disposition, set(decision.products))
    assert (((10, 4), (10, 0)) if all_or_nothing else ((10, 4), (15, 0))) == (books.stock(), books.stock("q"))
    assert OrderStatus.RESERVED is books.state.orders["o"].status
