"""Cancellations of orders and of lines: exact line arithmetic, refusals, repeats."""

import pytest

from domain.lines import Line
from domain.model import Disposition, OrderStatus, Reason
from tests.unit.domain_cases import cancelled, event, refunded
from tests.unit.order_cases import CANCEL, CREATE, EXPIRE, ORDER_OF_FIVE, PAY, Given, given, given_two


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
    books = given_two(*events)
    assert (stock, line) == (books.stock("p"), books.state.orders["o"].lines["p"])
    books.check()


@pytest.mark.parametrize("items", [{}, {"items": [{"product_id": "p", "quantity": 1}]}], ids=["whole", "partial"])
@pytest.mark.parametrize("known", [(CREATE,), (CREATE, PAY)], ids=["reserved", "deducted"])
def test_the_ledger_says_why_an_order_was_cancelled(known: Given, items: dict[str, object]) -> None:
    """The reason of the cancellation is kept in the entries it caused, as with an adjustment."""
    decision = given(*known).take(event("order.cancelled", "c", 2, order_id="o", reason="changed their mind", **items))
    assert ["changed their mind"] == [entry.reason for entry in decision.entries]


def test_cancelling_every_unit_line_by_line_releases_the_order() -> None:
    """An order without wanted units is released, and a payment for it is a shortfall."""
    books = given_two(ORDER_OF_FIVE, cancelled({"p": 5}), cancelled({"q": 2}, name="2"))
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
    books = given_two(*known)
    books.take(part)
    assert Disposition.DUPLICATE is books.take(part).disposition


@pytest.mark.parametrize("lines", [{"p": 6}, {"x": 1}, {"p": 1, "q": 3}], ids=["too many", "not ordered", "one line"])
@pytest.mark.parametrize("known", [(ORDER_OF_FIVE,), (ORDER_OF_FIVE, PAY)], ids=["reserved", "deducted"])
def test_a_cancellation_beyond_the_order_is_refused_whole(known: Given, lines: dict[str, int]) -> None:
    """One line too much refuses the whole partial cancellation, nothing moves, and the refusal sticks."""
    books = given_two(*known)
    before = (books.stock("p"), books.stock("q"))
    decision = books.take(cancelled(lines))
    assert (Reason.CANCELLATION_EXCEEDS_ORDER, before) == (decision.reason, (books.stock("p"), books.stock("q")))
    assert Disposition.DUPLICATE is books.take(cancelled(lines)).disposition


def test_an_early_cancellation_that_was_refused_stays_refused() -> None:
    """A partial cancellation that came before its order and did not fit is not judged again."""
    books = given_two(cancelled({"p": 6}), ORDER_OF_FIVE)
    assert Disposition.DUPLICATE is books.take(cancelled({"p": 6})).disposition
