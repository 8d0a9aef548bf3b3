"""Carts, given/when/then: the hold follows the newest snapshot, and an order takes over its cart's hold."""

import pytest

from domain.commands import ExpireCart
from domain.model import (
    Cart,
    CartStatus,
    Cause,
    Disposition,
    Outcome,
    OutcomeKind,
    Reason,
    ReferenceType,
    ReservationOutcome,
    Shortage,
    StockAlert,
)
from tests.unit.domain_cases import Books, Event, at, cancelled, cart, created, paid, product


def given(*events: Event, on_hand: int = 10, threshold: int = 0) -> Books:
    """Return a shop with `on_hand` units of p and 10 of q where the events happened."""
    return Books(product("p", on_hand, threshold), product("q", 10, 0), *events)


def _held(books: Books, cart_id: str = "c") -> dict[str, int]:
    return dict(books.state.carts[cart_id].held)


def _kinds(outcomes: list[Outcome] | tuple[Outcome, ...]) -> list[str]:
    return [outcome.kind for outcome in outcomes if isinstance(outcome, ReservationOutcome)]


# --- snapshots ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "when", "held", "entries"),
    [
        ((), cart({"p": 3}), {"p": 3}, ["RESERVE p 3"]),
        ((cart({"p": 3}),), cart({"p": 5}, 1), {"p": 5}, ["RESERVE p 2"]),
        ((cart({"p": 3}),), cart({"p": 1}, 1), {"p": 1}, ["RELEASE p 2"]),
        ((cart({"p": 3}),), cart({"p": 3}, 1), {"p": 3}, []),
        ((cart({"p": 3}),), cart({}, 1), {}, ["RELEASE p 3"]),
        ((cart({"p": 3}),), cart({"q": 2}, 1), {"q": 2}, ["RELEASE p 3", "RESERVE q 2"]),
        ((), cart({"p": 12}), {"p": 10}, ["RESERVE p 10"]),
        ((cart({"p": 3}),), cart({"p": 12}, 1), {"p": 10}, ["RESERVE p 7"]),
        ((cart({"p": 9}, cart_id="other"),), cart({"p": 3}), {"p": 1}, ["RESERVE p 1"]),
        ((), cart({"x": 1, "p": 1}), {"p": 1}, ["RESERVE p 1"]),
        ((), cart({}), {}, []),
    ],
    ids=[
        "first",
        "more",
        "less",
        "the same",
        "emptied",
        "other product",
        "more than there is",
        "more than there is left",
        "others hold the rest",
        "unknown product",
        "empty from the start",
    ],
)
def test_the_hold_moves_to_match_the_snapshot(
    known: tuple[Event, ...], when: Event, held: dict[str, int], entries: list[str]
) -> None:
    """After a snapshot the cart holds what it asks for as far as it is there, and the ledger shows the difference."""
    books = given(*known)
    decision = books.take(when)
    assert (held, entries) == (_held(books), [f"{e.type} {e.product_id} {e.quantity}" for e in decision.entries])
    books.check()


@pytest.mark.parametrize(
    ("known", "late", "is_applied"),
    [
        (cart({"p": 3}, 5), cart({"p": 1}, 4), False),
        (cart({"p": 3}, 5), cart({"p": 1}, 5), True),
        (cart({"p": 3}, 5), cart({"p": 1}, 6), True),
        (cart({"p": 3}, 5, 2), cart({"p": 1}, 6, 1), False),
        (cart({"p": 3}, 5, 2), cart({"p": 1}, 6, 2), False),
        (cart({"p": 3}, 5, 2), cart({"p": 1}, 4, 3), True),
        (cart({"p": 3}, 5, 2), cart({"p": 1}, 4), False),
        (cart({"p": 3}, 5, 2), cart({"p": 1}, 6), True),
        (cart({"p": 3}, 5), cart({"p": 1}, 4, 9), False),
    ],
    ids=[
        "older",
        "same time",
        "newer",
        "lower version, later",
        "same version, later",
        "higher version, earlier",
        "no version, earlier",
        "no version, later",
        "first version, earlier",
    ],
)
def test_the_newest_snapshot_wins(known: Event, late: Event, *, is_applied: bool) -> None:
    """By version where both have one, else by time; an older one is refused as stale and has no effect."""
    books = given(known)
    decision = books.take(late)
    if is_applied:
        assert (Disposition.APPLIED, {"p": 1}) == (decision.disposition, _held(books))
    else:
        assert (Disposition.REFUSED, Reason.STALE_VERSION, {"p": 3}) == (
            decision.disposition,
            decision.reason,
            _held(books),
        )
        assert ((), ()) == (decision.entries, decision.outcomes)


def test_every_applied_snapshot_renews_the_whole_carts_expiry() -> None:
    """The deadline is the newest snapshot's time plus the time to live, whatever changed in it."""
    books = given(cart({"p": 3}), cart({"p": 3}, 10))
    assert at(40) == books.state.carts["c"].expires_at


def test_an_emptied_cart_has_no_deadline() -> None:
    """There is nothing left to expire."""
    books = given(cart({"p": 3}), cart({}, 1))
    assert (CartStatus.EMPTIED, None) == (books.state.carts["c"].status, books.state.carts["c"].expires_at)


def test_a_shortage_is_reported_line_by_line() -> None:
    """It lists every line that is not held in full, with units requested and held; unknown products come first."""
    books = given(cart({"p": 9}, cart_id="other"))
    [outcome] = books.take(cart({"p": 3, "q": 1, "x": 2})).outcomes[:1]
    assert (
        ReservationOutcome(
            OutcomeKind.CART_SHORTAGE,
            ReferenceType.CART,
            "c",
            "u",
            {"p": 1, "q": 1},
            Reason.UNKNOWN_PRODUCT,
            (Shortage("x", 2, 0, Reason.UNKNOWN_PRODUCT), Shortage("p", 3, 1, Reason.INSUFFICIENT_STOCK)),
            Cause("shop", "cart-c-0-None", at(0)),
        )
        == outcome
    )


def test_a_cart_without_a_shortage_has_no_outcome() -> None:
    """Only shortages of carts are published, and a cart that takes the last unit has none."""
    assert [] == _kinds(given(cart({"p": 3}), cart({"p": 10}, 1)).outcomes)


def test_a_snapshots_entries_and_outcome_name_the_cart_and_its_event() -> None:
    """Units held and released are attributed to the snapshot, and so is the shortage."""
    decision = given(cart({"q": 2})).take(snapshot := cart({"p": 12}, 1))
    assert [("RELEASE", "CART", "c", snapshot["id"]), ("RESERVE", "CART", "c", snapshot["id"])] == [
        (e.type, e.reference_type, e.reference_id, e.cause.event_id) for e in decision.entries
    ]
    assert [snapshot["id"], snapshot["id"]] == [outcome.cause.event_id for outcome in decision.outcomes]


# --- an order takes over the hold ---------------------------------------------------------------


def test_a_carts_own_hold_never_blocks_its_own_order() -> None:
    """The last units, held by the cart, are available to its order."""
    books = given(cart({"p": 10}), created({"p": 10}, cart="c", minutes=1))
    assert ((10, 10), {}) == (books.stock(), _held(books))


def test_a_snapshot_of_the_same_instant_belongs_to_the_order() -> None:
    """A cart is newer than its order only if its snapshot is from after it; at the same time its hold is taken over."""
    books = given(cart({"p": 10}, 1), created({"p": 10}, cart="c", minutes=1))
    assert ((10, 10), {}, CartStatus.CONVERTED) == (books.stock(), _held(books), books.state.carts["c"].status)


def test_another_carts_hold_does_block_an_order() -> None:
    """Units that another cart holds are not available."""
    books = given(cart({"p": 10}, cart_id="other"), created({"p": 1}, cart="c", minutes=1))
    assert {"p": 10} == _held(books, "other")
    assert Reason.INSUFFICIENT_STOCK is books.decisions[-1].reason


def test_the_ledger_shows_the_handover() -> None:
    """The cart releases its whole hold, then the order reserves its lines; the order's event is the cause of both."""
    books = given(cart({"p": 5, "q": 2}))
    decision = books.take(created({"p": 3}, cart="c", minutes=1))
    assert {Cause("shop", "created-o", at(1))} == {entry.cause for entry in decision.entries}
    assert [
        ("CART", "c", "RELEASE", "p", 5),
        ("CART", "c", "RELEASE", "q", 2),
        ("ORDER", "o", "RESERVE", "p", 3),
    ] == [(e.reference_type, e.reference_id, e.type, e.product_id, e.quantity) for e in decision.entries]
    books.check()


def test_the_edge_is_judged_on_the_net_of_the_handover() -> None:
    """Released and reserved again in one decision: neither a recovery nor a new alert is reported."""
    books = given(cart({"p": 8}), threshold=3)
    decision = books.take(created({"p": 8}, cart="c", minutes=1))
    assert [] == [alert for alert in decision.outcomes if isinstance(alert, StockAlert)]


@pytest.mark.parametrize(
    ("late", "status", "held"),
    [
        (cart({"p": 2}, 0.5), CartStatus.CONVERTED, {}),
        (cart({"p": 2}, 1), CartStatus.CONVERTED, {}),
        (cart({"p": 2}, 1, 99), CartStatus.CONVERTED, {}),
        (cart({"p": 2}, 2), CartStatus.ACTIVE, {"p": 2}),
        (cart({"p": 2}, 2, 1), CartStatus.ACTIVE, {"p": 2}),
    ],
    ids=[
        "before the order",
        "same time",
        "same time, newer version",
        "after the order",
        "after, versions start afresh",
    ],
)
@pytest.mark.parametrize("known", [(), (cart({"p": 4}, 0, 5),)], ids=["unknown cart", "known cart"])
def test_a_converted_cart_starts_afresh(
    known: tuple[Event, ...], late: Event, status: CartStatus, held: dict[str, int]
) -> None:
    """A snapshot from before the order does nothing when it arrives late; one from after it starts a new hold."""
    books = given(*known, created({"p": 1}, cart="c", minutes=1))
    books.take(late)
    assert (status, held) == (books.state.carts["c"].status, _held(books))


def test_a_cart_newer_than_the_order_keeps_its_hold() -> None:
    """The order was placed before the snapshot, so that hold is a new cart's."""
    books = given(cart({"p": 4}, 5), created({"p": 6}, cart="c", minutes=1))
    assert ({"p": 4}, (10, 10)) == (_held(books), books.stock())
    books.take(cart({"p": 1}, 0.5, 99))
    assert {"p": 4} == _held(books)


def test_the_hold_of_a_cart_newer_than_the_order_is_not_available_to_it() -> None:
    """It blocks the older order like any other hold."""
    books = given(cart({"p": 4}, 5), created({"p": 7}, cart="c", minutes=1))
    assert Reason.INSUFFICIENT_STOCK is books.decisions[-1].reason


@pytest.mark.parametrize(
    ("orders", "converted_at"),
    [((2,), 2), ((2, 1), 2), ((1, 2), 2)],
    ids=["one order", "an older order later", "a newer order later"],
)
def test_a_cart_newer_than_its_orders_is_converted_at_the_newest_of_them(
    orders: tuple[int, ...], converted_at: int
) -> None:
    """It keeps hold, owner, version and deadline, and refuses snapshots up to the newest order's time."""
    books = given(cart({"p": 4}, 5, 7))
    before = books.state.carts["c"]
    for number in orders:
        books.take(created({"p": 1}, f"o{number}", cart="c", minutes=number))
    assert (
        before._replace(converted_at=at(converted_at), version=before.version + len(orders)) == books.state.carts["c"]
    )


def test_a_rejected_order_leaves_its_carts_hold() -> None:
    """The customer can still order from the cart."""
    books = given(cart({"p": 4}), created({"p": 11}, cart="c", minutes=1))
    assert {"p": 4} == _held(books)


def test_an_order_cancelled_before_it_came_releases_its_carts_hold() -> None:
    """The order was placed, so the cart is converted, and nothing is held for either."""
    books = given(cart({"p": 4}), cancelled(), created({"p": 4}, cart="c", minutes=1))
    assert ({}, (10, 0)) == (_held(books), books.stock())


def test_a_paid_order_takes_the_hold_and_deducts_at_once() -> None:
    """With the payment known, the units taken over are deducted at once."""
    books = given(cart({"p": 10}), paid(), created({"p": 10}, cart="c", minutes=1))
    assert (0, 0) == books.stock()


# --- the whole cart, field by field -------------------------------------------------------------

MINE = {"user_id": "mine"}


def _snapshot(lines: dict[str, int], minutes: float, version: int) -> Event:
    published = cart(lines, minutes, version)
    return {**published, "data": {**published["data"], **MINE}}


FIRST = Cart("c", CartStatus.ACTIVE, "mine", {"p": 4}, 7, at(0), None, at(30), 1)


@pytest.mark.parametrize(
    ("events", "known"),
    [
        ((_snapshot({"p": 4}, 0, 7),), FIRST),
        (
            (_snapshot({"p": 4}, 0, 7), _snapshot({"q": 1}, 3, 8)),
            FIRST._replace(held={"q": 1}, snapshot_version=8, as_of=at(3), expires_at=at(33), version=2),
        ),
        (
            (_snapshot({"p": 4}, 0, 7), created({"p": 1}, cart="c", minutes=2)),
            Cart("c", CartStatus.CONVERTED, "mine", {}, None, at(2), at(2), None, 2),
        ),
        (
            (created({"p": 1}, cart="c", minutes=2),),
            Cart("c", CartStatus.CONVERTED, "u", {}, None, at(2), at(2), None, 1),
        ),
        (
            (created({"p": 1}, cart="c", minutes=2), _snapshot({"p": 4}, 3, 1)),
            FIRST._replace(snapshot_version=1, as_of=at(3), converted_at=at(2), expires_at=at(33), version=2),
        ),
    ],
    ids=["first snapshot", "second snapshot", "converted", "converted before any snapshot", "after its conversion"],
)
def test_a_cart_knows_its_owner_its_snapshot_and_its_times(events: tuple[Event, ...], known: Cart) -> None:
    """Each field of the cart comes from its newest snapshot, or from the order that took its hold over."""
    assert known == given(*events).state.carts["c"]


def test_an_expired_cart_keeps_all_but_its_hold_and_deadline() -> None:
    """Owner, snapshot and conversion stay, so that older snapshots still do nothing."""
    books = given(created({"q": 1}, cart="c", minutes=0), _snapshot({"p": 4}, 1, 7))
    before = books.state.carts["c"]
    [outcome] = books.obey(ExpireCart("c", at(32))).outcomes
    assert (
        before._replace(status=CartStatus.EXPIRED, held={}, expires_at=None, version=before.version + 1)
        == books.state.carts["c"]
    )
    assert isinstance(outcome, ReservationOutcome)
    assert (ReferenceType.CART, "c", "mine", {"p": 4}, None, ()) == outcome[1:-1]


def test_an_expirys_entry_and_outcome_name_cart_deadline_and_version() -> None:
    """The cause of an expiry is made of what expired, so the same expiry always has the same id."""
    decision = given(cart({"p": 4})).obey(ExpireCart("c", at(31)))
    cause = Cause("inventory-worker", f"expired:cart:c:{at(30).isoformat()}:1", at(30))
    assert [(cause, ReferenceType.CART, "c")] == [(e.cause, e.reference_type, e.reference_id) for e in decision.entries]
    assert [cause] == [outcome.cause for outcome in decision.outcomes]


# --- expiry -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("minute", "is_due"), [(29.99, False), (30, False), (30.01, True), (90, True)])
def test_a_carts_hold_expires_when_it_is_due(minute: float, *, is_due: bool) -> None:
    """Past its deadline the whole hold is released and reported; up to and including it, nothing happens."""
    books = given(cart({"p": 4, "q": 1}))
    decision = books.obey(ExpireCart("c", at(minute)))
    if is_due:
        assert (["expired"], {}, CartStatus.EXPIRED) == (
            _kinds(decision.outcomes),
            _held(books),
            books.state.carts["c"].status,
        )
    else:
        assert (Disposition.DUPLICATE, {"p": 4, "q": 1}) == (decision.disposition, _held(books))


@pytest.mark.parametrize(
    "known",
    [
        (),
        (cart({}),),
        (cart({"p": 1}), created({"p": 1}, cart="c", minutes=1)),
        (cart({"p": 1}), cart({"p": 1}, 1000)),
    ],
    ids=["unknown", "emptied", "converted", "renewed"],
)
def test_a_cart_without_a_due_hold_does_not_expire(known: tuple[Event, ...]) -> None:
    """Expiring it is a duplicate."""
    assert Disposition.DUPLICATE is given(*known).obey(ExpireCart("c", at(600))).disposition


def test_an_expired_cart_comes_back_with_a_newer_snapshot() -> None:
    """Expiry releases the hold and keeps the cart."""
    books = given(cart({"p": 4}))
    books.obey(ExpireCart("c", at(31)))
    books.take(cart({"p": 2}, 31))
    assert {"p": 2} == _held(books)


def test_two_holds_with_the_same_deadline_expire_under_different_causes() -> None:
    """A later version of the same instant has the same deadline, yet its expiry is an event of its own."""
    books = given(cart({"p": 4}, 0, 1))
    first = books.obey(ExpireCart("c", at(31)))
    books.take(cart({"p": 4}, 0, 2))
    second = books.obey(ExpireCart("c", at(31)))
    assert first.entries[0].cause.occurred_at == second.entries[0].cause.occurred_at
    assert first.entries[0].cause.event_id != second.entries[0].cause.event_id
