"""Requests of callers that wait for the answer, given/when/then: whose cart or order it is, and what cannot wait."""

from datetime import timedelta

import pytest

from domain.commands import (
    CancelOrder,
    CreateOrder,
    ExpireOrder,
    ExtendCart,
    PayOrder,
    ReleaseCart,
    Request,
    UpdateCart,
)
from domain.model import Cart, CartStatus, Decision, Disposition, EntryType, Reason, Shortage
from tests.unit.domain_cases import Event, at, cancelled, cart, created, paid, refunded
from tests.unit.request_cases import NOW, given, refused

# --- carts --------------------------------------------------------------------------------------

CART = cart({"p": 4})
SNAPSHOT = UpdateCart(NOW, "c", {"p": 1})
NOBODYS = {**CART, "data": {name: value for name, value in CART["data"].items() if name != "user_id"}}


@pytest.mark.parametrize(
    ("known", "owner", "names", "is_refused"),
    [
        ((), "u", None, False),
        ((CART,), "u", "u", False),
        ((CART,), "u", None, False),
        ((CART,), "other", None, True),
        ((CART,), "other", "u", True),
        ((NOBODYS,), "u", None, True),
        ((CART,), None, None, False),
        ((CART,), None, "u", False),
        ((CART,), None, "other", True),
        ((NOBODYS,), None, "other", False),
    ],
    ids=[
        "no cart yet",
        "own cart",
        "own cart, no user named",
        "cart of another user",
        "cart of another user, named",
        "cart of nobody",
        "service, no user named",
        "service for the cart's user",
        "service for another user",
        "service, cart of nobody",
    ],
)
def test_a_caller_reaches_only_its_own_cart(
    known: tuple[Event, ...], owner: str | None, names: str | None, *, is_refused: bool
) -> None:
    """A user reaches its own carts, a service those of the user that it names; others do not exist for them."""
    books = given(*known)
    decision = books.obey(Request(UpdateCart(NOW, "c", {"p": 1}, names), owner))
    if is_refused:
        assert refused(Reason.UNKNOWN_CART) == decision
    else:
        assert (Disposition.APPLIED, {"p": 1}) == (decision.disposition, books.state.carts["c"].held)


@pytest.mark.parametrize(
    ("known", "names", "keeps"),
    [((CART,), None, "u"), ((CART,), "u", "u"), ((NOBODYS,), "mine", "mine"), ((), "mine", "mine"), ((), None, None)],
    ids=["none named", "the same", "nobody's so far", "a new cart", "a new cart of nobody"],
)
def test_a_cart_stays_its_users(known: tuple[Event, ...], names: str | None, keeps: str | None) -> None:
    """A request that names no user leaves the cart's own; a cart of nobody takes the one that is named."""
    books = given(*known)
    books.obey(Request(UpdateCart(NOW, "c", {"p": 1}, names)))
    assert keeps == books.state.carts["c"].user_id


@pytest.mark.parametrize("command", [ExtendCart(NOW, "c", timedelta(hours=1)), ReleaseCart(NOW, "c")])
@pytest.mark.parametrize(("owner", "is_refused"), [("u", False), (None, False), ("other", True)])
def test_only_its_owner_extends_or_releases_a_cart(
    command: ExtendCart | ReleaseCart, owner: str | None, *, is_refused: bool
) -> None:
    """A service may extend and release anybody's."""
    decision = given(CART).obey(Request(command, owner))
    assert (refused(Reason.UNKNOWN_CART) == decision) is is_refused
    assert (decision.disposition is Disposition.APPLIED) is not is_refused


def test_a_request_acts_under_its_commands_cause() -> None:
    """The entries are attributed to the request's id."""
    request = Request(SNAPSHOT, "u")
    assert NOW == request.cause
    assert [NOW] == [entry.cause for entry in given().obey(request).entries]


def test_a_cart_all_or_nothing_is_refused_with_its_short_lines() -> None:
    """Without `partial` nothing is held or released; the answer lists the short lines, unknown products first."""
    books = given(cart({"p": 9}, cart_id="other"), cart({"q": 2}))
    before = books.state.carts["c"]
    command = UpdateCart(NOW, "c", {"p": 3, "x": 1, "q": 1}, "u", partial=False)
    assert Decision(
        Disposition.REFUSED,
        Reason.UNKNOWN_PRODUCT,
        short={"p": 2},
        shortages=(Shortage("x", 1, 0, Reason.UNKNOWN_PRODUCT), Shortage("p", 3, 1, Reason.INSUFFICIENT_STOCK)),
    ) == books.obey(command)
    assert (before, (10, 9), (10, 2)) == (books.state.carts["c"], books.stock(), books.stock("q"))


def test_a_cart_all_or_nothing_is_held_where_everything_is_available() -> None:
    """Up to the last unit."""
    books = given()
    decision = books.obey(UpdateCart(NOW, "c", {"p": 10}, partial=False))
    assert (Disposition.APPLIED, (), {"p": 10}) == (
        decision.disposition,
        decision.shortages,
        books.state.carts["c"].held,
    )


def test_a_partial_cart_lists_its_short_lines() -> None:
    """For the caller, beside the outcome that is published."""
    decision = given().obey(UpdateCart(NOW, "c", {"p": 11}))
    assert ((Shortage("p", 11, 10, Reason.INSUFFICIENT_STOCK),), {"p": 1}) == (decision.shortages, decision.short)


@pytest.mark.parametrize(("hours", "deadline"), [(None, at(40)), (2, at(130))])
def test_a_request_may_say_how_long_its_cart_lasts(hours: int | None, deadline: object) -> None:
    """Else the policy's time to live applies."""
    books = given()
    lasts = None if hours is None else timedelta(hours=hours)
    books.obey(UpdateCart(NOW, "c", {"p": 1}, expires_in=lasts))
    assert deadline == books.state.carts["c"].expires_at


@pytest.mark.parametrize(
    ("known", "minutes", "expected"),
    [
        ((), 60, refused(Reason.UNKNOWN_CART)),
        ((cart({}),), 60, refused(Reason.RESERVATION_EXPIRED)),
        ((CART, created({"p": 1}, cart="c", minutes=1)), 60, refused(Reason.RESERVATION_EXPIRED)),
        ((CART,), 19, Decision(Disposition.DUPLICATE)),
        ((CART,), 20, Decision(Disposition.DUPLICATE)),
        (
            (CART,),
            21,
            Decision(
                Disposition.APPLIED,
                cart=Cart("c", CartStatus.ACTIVE, "u", {"p": 4}, None, at(0), None, at(31), 2),
            ),
        ),
    ],
    ids=["unknown", "emptied", "converted", "lasts longer", "lasts as long", "prolonged"],
)
def test_a_carts_hold_is_prolonged(known: tuple[Event, ...], minutes: int, expected: Decision) -> None:
    """The deadline moves to the time asked for, never back; there must be a hold."""
    assert expected == given(*known).obey(ExtendCart(NOW, "c", timedelta(minutes=minutes)))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ((), refused(Reason.UNKNOWN_CART)),
        ((cart({}),), Decision(Disposition.DUPLICATE)),
        ((CART, created({"p": 1}, cart="c", minutes=1)), Decision(Disposition.DUPLICATE)),
    ],
    ids=["unknown", "emptied", "converted"],
)
def test_a_cart_that_holds_nothing_is_not_released(known: tuple[Event, ...], expected: Decision) -> None:
    """An unknown one is refused, any other is a repeat."""
    assert expected == given(*known).obey(ReleaseCart(NOW, "c"))


def test_a_released_cart_is_emptied() -> None:
    """Its units are available again, and it stays its user's."""
    books = given(CART)
    decision = books.obey(ReleaseCart(NOW, "c"))
    assert Cart("c", CartStatus.EMPTIED, "u", {}, None, at(10), None, None, 2) == books.state.carts["c"]
    assert [(EntryType.RELEASE, "p", 4, NOW)] == [(e.type, e.product_id, e.quantity, e.cause) for e in decision.entries]
    books.check()


# --- orders -------------------------------------------------------------------------------------

CREATE = created({"p": 4})
REJECTED = created({"p": 11})
ORDER = CreateOrder(NOW, "o", {"p": 4}, None, "u")
FROM_CART = CreateOrder(NOW, "o", {"p": 4}, "c", "u")
PAY = PayOrder(NOW, "o")
CANCEL = CancelOrder(NOW, "o")


@pytest.mark.parametrize(
    ("known", "command", "owner", "expected"),
    [
        ((), ORDER, "u", Disposition.APPLIED),
        ((CREATE,), ORDER, "u", Disposition.DUPLICATE),
        ((CREATE,), ORDER, None, Disposition.DUPLICATE),
        ((CREATE,), ORDER, "other", Reason.UNKNOWN_ORDER),
        ((paid(),), ORDER, "u", Disposition.APPLIED),
        ((CART,), FROM_CART, "u", Disposition.APPLIED),
        ((CART,), FROM_CART, None, Disposition.APPLIED),
        ((CART,), FROM_CART, "other", Reason.UNKNOWN_CART),
        ((CART,), CreateOrder(NOW, "o", {"p": 4}, "c", "other"), None, Reason.UNKNOWN_CART),
        ((CART, paid()), FROM_CART, "other", Reason.UNKNOWN_CART),
        ((CREATE, cart({"p": 1}, cart_id="c")), FROM_CART, "u", Disposition.DUPLICATE),
        ((CREATE, {**CART, "data": {**CART["data"], "user_id": "x"}}), FROM_CART, "u", Disposition.DUPLICATE),
    ],
    ids=[
        "new",
        "known",
        "known, service",
        "somebody else's",
        "only its payment is known",
        "from its cart",
        "from its cart, service",
        "from a cart of another user",
        "service for another user",
        "only its payment is known, cart of another user",
        "known, from its cart",
        "known, from a cart that is another user's by now",
    ],
)
def test_a_caller_orders_for_itself(
    known: tuple[Event, ...], command: CreateOrder, owner: str | None, expected: Disposition | Reason
) -> None:
    """Orders and carts of others do not exist; a repeat is a duplicate whatever became of the cart."""
    decision = given(*known).obey(Request(command, owner))
    assert expected is (decision.disposition if isinstance(expected, Disposition) else decision.reason)
    assert isinstance(expected, Disposition) or refused(expected) == decision


@pytest.mark.parametrize(
    ("known", "owner", "expected"),
    [
        ((), None, Reason.UNKNOWN_ORDER),
        ((cancelled(),), None, Reason.UNKNOWN_ORDER),
        ((CREATE,), None, Disposition.APPLIED),
        ((CREATE,), "u", Disposition.APPLIED),
        ((CREATE,), "other", Reason.UNKNOWN_ORDER),
        ((CREATE, paid()), "other", Reason.UNKNOWN_ORDER),
        ((CREATE, paid()), None, Disposition.DUPLICATE),
        ((CREATE, paid(), cancelled()), None, Disposition.DUPLICATE),
        ((REJECTED,), None, Reason.ORDER_REJECTED),
        ((CREATE, cancelled()), None, Reason.ORDER_CANCELLED),
        ((CREATE, cancelled({"p": 1})), None, Disposition.APPLIED),
        ((CREATE, ExpireOrder("o", at(60))), None, Reason.RESERVATION_EXPIRED),
    ],
    ids=[
        "unknown",
        "only cancelled",
        "reserved",
        "own",
        "somebody else's",
        "somebody else's, paid",
        "paid",
        "paid and cancelled",
        "rejected",
        "cancelled",
        "partly cancelled",
        "expired",
    ],
)
def test_a_payment_needs_a_reservation(
    known: tuple[Event | ExpireOrder, ...], owner: str | None, expected: Disposition | Reason
) -> None:
    """The caller has taken no money yet, so an order that is not reserved is refused and nothing is published."""
    books = given()
    for one in known:
        books.obey(one) if isinstance(one, ExpireOrder) else books.take(one)
    decision = books.obey(Request(PAY, owner))
    assert expected is (decision.disposition if isinstance(expected, Disposition) else decision.reason)
    assert isinstance(expected, Disposition) or refused(expected) == decision


@pytest.mark.parametrize(
    ("known", "owner", "expected"),
    [
        ((), None, Reason.UNKNOWN_ORDER),
        ((paid(),), None, Reason.UNKNOWN_ORDER),
        ((CREATE,), "u", Disposition.APPLIED),
        ((CREATE,), None, Disposition.APPLIED),
        ((CREATE,), "other", Reason.UNKNOWN_ORDER),
        ((CREATE, paid()), "u", Reason.ORDER_PAID),
        ((CREATE, paid()), None, Disposition.APPLIED),
        ((CREATE, paid(), refunded({"p": 4}), cancelled()), "u", Disposition.DUPLICATE),
    ],
    ids=["unknown", "only paid", "own", "service", "somebody else's", "own, paid", "service, paid", "own, restocked"],
)
def test_a_user_cancels_its_own_unpaid_order(
    known: tuple[Event, ...], owner: str | None, expected: Disposition | Reason
) -> None:
    """The cancellation of a paid order is a refund, for a service to decide."""
    decision = given(*known).obey(Request(CANCEL, owner))
    assert expected is (decision.disposition if isinstance(expected, Disposition) else decision.reason)
    assert isinstance(expected, Disposition) or refused(expected) == decision
