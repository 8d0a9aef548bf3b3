"""Products, given/when/then: created, adjusted, judged against their thresholds, reported on edges only."""

import pytest

from domain.commands import CreateProduct
from domain.lines import Line
from domain.model import (
    BackInStock,
    Cause,
    Disposition,
    EntryType,
    LedgerEntry,
    Order,
    Policy,
    Product,
    Reason,
    ReferenceType,
    StockAlert,
    StockStatus,
    check_order,
    check_product,
    judge,
)
from domain.movements import Attribution, Movements
from tests.unit.domain_cases import Books, Event, adjusted, at, cancelled, cart, created, paid, product, refunded


def _alerts(books: Books) -> list[str]:
    return [str(alert.severity) for alert in books.outcomes if isinstance(alert, StockAlert)]


# --- product.created ----------------------------------------------------------------------------


def test_a_new_products_initial_stock_is_received() -> None:
    """Initial stock is an IN entry, the product's first."""
    [entry] = Books(product("p", 7)).entries
    assert (EntryType.IN, 7, 1, 0, 7, ReferenceType.IMPORT) == (
        entry.type,
        entry.quantity,
        entry.sequence,
        entry.on_hand_before,
        entry.on_hand_after,
        entry.reference_type,
    )


def test_a_products_first_entry_says_where_it_came_from() -> None:
    """The event, the product and the operator stand in the ledger."""
    cause = Cause("import", "1", at(0))
    [entry] = Books().obey(CreateProduct(cause, "p", 7, operator="ann")).entries
    reference = ReferenceType.IMPORT
    assert LedgerEntry("p", 1, EntryType.IN, 7, 0, 7, 0, 0, reference, "p", "ann", None, cause) == entry


def test_a_product_without_stock_has_no_entry() -> None:
    """No movement, no entry."""
    books = Books(product("p", 0))
    assert ([], (0, 0)) == (books.entries, books.stock())


@pytest.mark.parametrize("again", [product("p", 7), product("p", 9, 1)], ids=["the same", "other stock"])
def test_a_product_is_created_once(again: Event) -> None:
    """A repeat is a duplicate and adds no stock, whatever it says."""
    books = Books(product("p", 7))
    assert (Disposition.DUPLICATE, (7, 0)) == (books.take(again).disposition, books.stock())


@pytest.mark.parametrize(("given", "threshold"), [(None, 10), (0, 0), (3, 3)])
def test_a_threshold_that_is_not_given_is_the_shops(given: int | None, threshold: int) -> None:
    """Zero is a threshold, not the absence of one."""
    assert threshold == Books(product("p", 50, given)).state.products["p"].threshold


# --- inventory.adjustment -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "quantity", "on_hand", "entry"),
    [
        ("ADD", 5, 15, (5, 10, 15)),
        ("SUBTRACT", 5, 5, (5, 10, 5)),
        ("SUBTRACT", 6, 4, (6, 10, 4)),
        ("SET", 25, 25, (15, 10, 25)),
        ("SET", 4, 4, (6, 10, 4)),
        ("SET", 10, 10, None),
    ],
)
def test_an_adjustment_corrects_the_stock_on_hand(
    operation: str, quantity: int, on_hand: int, entry: tuple[int, int, int] | None
) -> None:
    """The stock becomes what the operation says, down to what is reserved, and an ADJUST entry shows the change."""
    books = Books(product("p", 10, 0), created({"p": 4}))
    decision = books.take(adjusted("p", operation, quantity))
    assert (on_hand, 4) == books.stock()
    seen = [(e.quantity, e.on_hand_before, e.on_hand_after) for e in decision.entries]
    assert ([] if entry is None else [entry]) == seen


def test_an_adjustments_entry_says_who_and_why() -> None:
    """Operator and reason stand in the ledger, under the reference of a manual change."""
    books = Books(product("p", 10))
    [entry] = books.take(event := adjusted("p", "ADD", 1)).entries
    assert ("ann", "count", ReferenceType.MANUAL, event["id"], EntryType.ADJUST) == (
        entry.operator,
        entry.reason,
        entry.reference_type,
        entry.reference_id,
        entry.type,
    )


def test_a_correction_below_what_is_reserved_says_so() -> None:
    """The operator sees both numbers."""
    decision = Books(product("p", 10, 0), created({"p": 4})).take(adjusted("p", "SUBTRACT", 7))
    assert "3 on hand would be less than 4 reserved" == decision.message


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (adjusted("x", "ADD", 1), Reason.UNKNOWN_PRODUCT),
        (adjusted("x", "ADD", 1, expected_version=7), Reason.UNKNOWN_PRODUCT),
        (adjusted("p", "SUBTRACT", 7), Reason.BELOW_RESERVED),
        (adjusted("p", "SUBTRACT", 11), Reason.BELOW_RESERVED),
        (adjusted("p", "SET", 3), Reason.BELOW_RESERVED),
        (adjusted("p", "SET", 3, low_stock_threshold=1), Reason.BELOW_RESERVED),
        (adjusted("p", "SET", 5, expected_version=1), Reason.STALE_VERSION),
        (adjusted("p", "SET", 5, expected_version=3), Reason.STALE_VERSION),
        (adjusted("p", "SET", 3, expected_version=1), Reason.STALE_VERSION),
        (adjusted("p", "ADD", 5, expected_version=1), Reason.STALE_VERSION),
        (adjusted("p", low_stock_threshold=5, expected_version=1), Reason.STALE_VERSION),
    ],
    ids=lambda value: str(value) if isinstance(value, Reason) else None,
)
def test_an_adjustment_that_cannot_be_is_refused_whole(event: Event, reason: Reason) -> None:
    """Unknown, then stale, then below what is reserved: the first is given, and neither stock nor threshold moves."""
    books = Books(product("p", 10, 0), created({"p": 4}))
    before = books.state.products["p"]
    decision = books.take(event)
    assert (Disposition.REFUSED, reason, before) == (decision.disposition, decision.reason, books.state.products["p"])


def test_set_with_the_expected_version_is_compare_and_set() -> None:
    """The version that was read lets the change through, once."""
    books = Books(product("p", 10, 0), created({"p": 4}))
    version = books.state.products["p"].version
    assert Disposition.APPLIED is books.take(adjusted("p", "SET", 20, expected_version=version)).disposition
    assert Reason.STALE_VERSION is books.take(adjusted("p", "SET", 30, expected_version=version)).reason


@pytest.mark.parametrize(
    ("event", "grows"),
    [
        (adjusted("p", "ADD", 1), 1),
        (adjusted("p", low_stock_threshold=5), 1),
        (adjusted("p", "ADD", 1, low_stock_threshold=5), 1),
        (adjusted("p", "SET", 10), 0),
        (adjusted("p", low_stock_threshold=0), 0),
        (created({"p": 1}), 1),
    ],
    ids=["stock", "threshold", "both", "same stock", "same threshold", "order"],
)
def test_a_products_version_grows_by_one_with_every_change(event: Event, grows: int) -> None:
    """One event is one change, however many entries it writes; an event that changes nothing is none."""
    books = Books(product("p", 10, 0))
    books.take(event)
    assert 1 + grows == books.state.products["p"].version


# --- thresholds and edges -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "threshold", "status"),
    [(4, 3, "ok"), (3, 3, "low"), (1, 3, "low"), (0, 3, "out"), (1, 0, "ok"), (0, 0, "out"), (-1, 0, "out")],
)
def test_stock_is_judged_against_its_threshold(available: int, threshold: int, status: str) -> None:
    """At or below the threshold is low, nothing is out, and more is ok."""
    assert status == judge(available, threshold)


@pytest.mark.parametrize(
    ("events", "alerts"),
    [
        ((created({"p": 4}),), []),
        ((created({"p": 7}),), ["low"]),
        ((created({"p": 10}),), ["out"]),
        ((created({"p": 7}), created({"p": 1}, "o2")), ["low"]),
        ((created({"p": 7}), created({"p": 3}, "o2")), ["low", "out"]),
        ((created({"p": 7}), paid()), ["low"]),
        ((created({"p": 7}), cancelled()), ["low", "ok"]),
        ((created({"p": 7}), cancelled({"p": 1}), created({"p": 1}, "o2")), ["low", "ok", "low"]),
        ((created({"p": 10}), cancelled({"p": 1})), ["out"]),
        ((created({"p": 10}), cancelled({"p": 1}), created({"p": 1}, "o2")), ["out"]),
        ((created({"p": 10}), cancelled({"p": 4}), created({"p": 4}, "o2")), ["out", "ok", "out"]),
        ((created({"p": 10}), cancelled()), ["out", "ok"]),
        ((cart({"p": 7}), cart({"p": 6}, 1), cart({"p": 9}, 2)), ["low", "ok", "low"]),
        ((created({"p": 10}), paid(), refunded({"p": 3})), ["out"]),
        ((created({"p": 10}), paid(), refunded({"p": 4})), ["out", "ok"]),
        ((adjusted("p", "SET", 3),), ["low"]),
        ((adjusted("p", "SET", 0),), ["out"]),
        ((adjusted("p", low_stock_threshold=10),), ["low"]),
        ((adjusted("p", low_stock_threshold=10), adjusted("p", low_stock_threshold=9)), ["low", "ok"]),
        ((adjusted("p", "SET", 5, low_stock_threshold=5),), ["low"]),
        ((adjusted("p", "SET", 2, low_stock_threshold=1),), []),
        ((paid(), created({"p": 7}), refunded({"p": 2})), ["low", "ok"]),
    ],
    ids=[
        "stays ok",
        "ok to low",
        "ok to out",
        "low stays low",
        "low to out",
        "deducting what was reserved",
        "recovery",
        "armed again",
        "out to low",
        "out to low to out",
        "out, recovery, out",
        "out to ok",
        "a cart's hold counts",
        "refund, still low",
        "refund, recovery",
        "adjusted to low",
        "adjusted to out",
        "threshold raised",
        "threshold lowered again",
        "stock and threshold, to low",
        "stock and threshold, still ok",
        "deducted at once",
    ],
)
def test_alerts_are_reported_on_edges_only(events: tuple[Event, ...], alerts: list[str]) -> None:
    """One alert when the status is worse than any reported since the last recovery, one on recovery, else none."""
    assert alerts == _alerts(Books(product("p", 10, 3), *events))


@pytest.mark.parametrize(
    ("events", "returns"),
    [
        ((created({"p": 10}),), []),
        ((created({"p": 10}), cancelled({"p": 1})), [1]),
        ((created({"p": 10}), cancelled()), [10]),
        ((created({"p": 9}), cancelled()), []),
        ((created({"p": 10}), cancelled({"p": 1}), cancelled({"p": 1}, name="second")), [1]),
        ((created({"p": 10}), cancelled({"p": 1}), created({"p": 1}, "o2"), cancelled(order="o2")), [1, 1]),
        ((created({"p": 10}), paid(), refunded({"p": 3})), [3]),
        ((created({"p": 10}), adjusted("p", low_stock_threshold=0)), []),
        ((adjusted("p", "SET", 0), adjusted("p", "ADD", 2, low_stock_threshold=1)), [2]),
        ((cart({"p": 10}), created({"p": 10}, cart="c", minutes=1)), []),
        ((cart({"p": 10}), created({"p": 9}, cart="c", minutes=1)), [1]),
    ],
    ids=[
        "runs out",
        "still low",
        "above the threshold",
        "was not out",
        "more of it",
        "out again",
        "refund",
        "threshold alone",
        "adjusted",
        "an order takes over its cart",
        "an order takes less than its cart",
    ],
)
def test_a_product_is_back_in_stock_once_per_edge_from_nothing(events: tuple[Event, ...], returns: list[int]) -> None:
    """One outcome each time available goes from 0 to more on the net of one event, whatever the threshold says."""
    books = Books(product("p", 10, 3), *events)
    assert returns == [found.product.available for found in books.outcomes if isinstance(found, BackInStock)]


@pytest.mark.parametrize(("quantity", "returns"), [(4, []), (0, [2])], ids=["with stock", "without stock"])
def test_a_new_product_was_never_out_of_stock(quantity: int, returns: list[int]) -> None:
    """Creating a product with stock is not a return; the first stock of one created without any is."""
    books = Books(product("p", quantity, 3), adjusted("p", "ADD", 2))
    assert returns == [found.product.available for found in books.outcomes if isinstance(found, BackInStock)]


def test_a_return_above_the_threshold_is_a_recovery_too() -> None:
    """Both outcomes of one change name the same product version and cause."""
    books = Books(product("p", 10, 3), created({"p": 10}))
    recovered, returned = books.take(cancelled()).outcomes[-2:]
    assert (StockAlert, BackInStock) == (type(recovered), type(returned))
    assert recovered[1:] == returned


@pytest.mark.parametrize(
    ("quantity", "alerts"), [(4, []), (3, ["low"]), (0, ["out"])], ids=["enough", "little", "nothing"]
)
def test_a_product_starts_as_ok(quantity: int, alerts: list[str]) -> None:
    """A product created with little or no stock has an edge like any other."""
    assert alerts == _alerts(Books(product("p", quantity, 3)))


def test_an_alert_carries_the_stock_it_judged_and_its_cause() -> None:
    """Readers see the stock after the event, and which event it was."""
    books = Books(product("p", 10, 3), created({"p": 8}))
    [alert] = [found for found in books.outcomes if isinstance(found, StockAlert)]
    assert (10, 8, 3, 2, "created-o") == (
        alert.product.on_hand,
        alert.product.reserved,
        alert.product.threshold,
        alert.product.version,
        alert.cause.event_id,
    )


def test_the_payment_that_lets_a_refund_through_is_the_cause_of_the_edge() -> None:
    """An edge on the net of a payment and the refund that waited for it names the payment as its cause."""
    books = Books(product("p", 10, 3), created({"p": 8}), refunded({"p": 8}))
    decision = books.take(paid())
    [alert] = [found for found in decision.outcomes if isinstance(found, StockAlert)]
    assert ("ok", "paid-o") == (alert.severity, alert.cause.event_id)


def test_the_default_threshold_is_the_policys() -> None:
    """Products without a threshold of their own are judged by the shop's default."""
    assert ["low"] == _alerts(Books(product("p", 10), policy=Policy(default_threshold=50)))


# --- the guards on load and save ----------------------------------------------------------------


@pytest.mark.parametrize(("on_hand", "reserved"), [(-1, 0), (3, 4), (3, -1)])
def test_impossible_stock_is_a_bug(on_hand: int, reserved: int) -> None:
    """Stock outside 0 <= reserved <= on_hand is never loaded or saved."""
    with pytest.raises(AssertionError, match="stock of p is impossible"):
        check_product(Product("p", on_hand, reserved, 0, StockStatus.OK, 1, 1))


@pytest.mark.parametrize(
    "line",
    [
        Line(2, cancelled=3),
        Line(2, reserved=2, released=1, deducted=2),
        Line(2, reserved=2, deducted=2, restocked=2, not_restocked=1, refunded=1),
        Line(2, reserved=2, deducted=2, not_restocked=1),
        Line(2, reserved=2, deducted=2, refunded=1, returned=2),
        Line(2, reserved=2, released=-1),
        Line(2, reserved=2, deducted=-1),
        Line(2, cancelled=-1),
        Line(2, reserved=2, deducted=2, restocked=-1),
        Line(2, reserved=2, deducted=2, not_restocked=-1),
        Line(2, reserved=2, deducted=2, refunded=-1),
        Line(2, reserved=2, deducted=2, returned=-1),
    ],
)
def test_impossible_counters_are_a_bug(line: Line) -> None:
    """A line never gives back more than it took, and never cancels more than was ordered."""
    with pytest.raises(AssertionError, match="line p is impossible"):
        check_order(Order("o", lines={"p": line}))


def test_a_movement_that_makes_stock_impossible_is_a_bug() -> None:
    """It is noticed before it is saved, and the message names the product."""
    moves = Movements({"p": Product("p", 3, 1, 0, StockStatus.OK, 1, 1)})
    moves.release({"p": 2}, Attribution(Cause("shop", "e", at(0)), ReferenceType.ORDER, "o"))
    with pytest.raises(AssertionError, match=r"^a movement would make the stock of p impossible: Product\("):
        moves.close(Cause("shop", "e", at(0)))


def test_possible_stock_and_counters_pass() -> None:
    """The guards accept everything that can occur."""
    check_product(Product("p", 3, 3, 0, StockStatus.OK, 1, 1))
    check_order(Order("o", lines={"p": Line(5, 5, 6, 0, 6, 5, 1, 2, 3)}))
