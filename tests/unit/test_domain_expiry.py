"""Expiry, given/when/then: holds expire by the low watermark, or earlier for a command that would run short."""

import pytest

from domain.commands import ExpireOrder
from domain.decide import step
from domain.due import DueHold, DueHolds
from domain.model import Disposition, OrderStatus, Policy, ReservationOutcome
from tests.unit.domain_cases import Books, Event, at, cancelled, cart, command, created, paid, product


def _kinds(books: Books) -> list[str]:
    return [outcome.kind for outcome in books.outcomes if isinstance(outcome, ReservationOutcome)]


@pytest.mark.parametrize(("minute", "is_due"), [(14.99, False), (15, False), (15.01, True), (60, True)])
def test_an_orders_hold_expires_when_it_is_due(minute: float, *, is_due: bool) -> None:
    """Past its deadline the hold is released and reported; up to and including it, nothing happens."""
    books = Books(product("p", 10), created({"p": 4}))
    decision = books.obey(ExpireOrder("o", at(minute)))
    if is_due:
        assert (["reserved", "expired"], (10, 0), OrderStatus.EXPIRED) == (
            _kinds(books),
            books.stock(),
            books.state.orders["o"].status,
        )
    else:
        assert (Disposition.DUPLICATE, (10, 4)) == (decision.disposition, books.stock())


@pytest.mark.parametrize(
    "known",
    [
        (),
        (paid(),),
        (created({"p": 4}), paid()),
        (created({"p": 4}), cancelled()),
        (created({"p": 11}),),
        (created({"p": 4}, minutes=600),),
    ],
    ids=["unknown", "only paid", "deducted", "released", "rejected", "placed later"],
)
def test_an_order_without_a_due_hold_does_not_expire(known: tuple[Event, ...]) -> None:
    """Expiring it is a duplicate and moves nothing: a payment that came first wins."""
    books = Books(product("p", 10), *known)
    before = books.stock()
    assert (Disposition.DUPLICATE, before) == (books.obey(ExpireOrder("o", at(60))).disposition, books.stock())


def test_an_expiry_is_the_same_event_whichever_sweeper_runs_it() -> None:
    """Its cause is the deadline, not the sweep: two sweepers at two times publish the same event."""
    early, late = (Books(product("p", 10), created({"p": 4})) for _ in range(2))
    assert early.obey(ExpireOrder("o", at(16))) == late.obey(ExpireOrder("o", at(99)))


@pytest.mark.parametrize(
    ("holder", "due_before", "expires"),
    [
        (created({"p": 8}, "old"), 15.01, True),
        (created({"p": 8}, "old"), 15, False),
        (cart({"p": 8}), 30.01, True),
        (cart({"p": 8}), 30, False),
    ],
    ids=["due order", "order in time", "due cart", "cart in time"],
)
@pytest.mark.parametrize("asks", ["order", "cart", "late payment"])
def test_due_holds_expire_before_a_command_runs_short(
    holder: Event, due_before: float, asks: str, *, expires: bool
) -> None:
    """A due hold expires before an order, a cart or a late payment is refused for lack of stock."""
    books = Books(product("p", 10))
    if asks == "late payment":
        books.take(created({"p": 5}, minutes=-60))
        books.obey(ExpireOrder("o", at(-30)))
    books.take(holder)
    want = {
        "order": created({"p": 5}, minutes=40),
        "cart": cart({"p": 5}, 40, cart_id="new"),
        "late payment": paid(minutes=40),
    }[asks]
    books.take(want, at(due_before))
    served = {"order": (10, 5), "cart": (10, 5), "late payment": (5, 0)}[asks]
    assert expires == (books.stock() == served)
    books.check()


def test_holds_that_are_due_stay_when_nothing_runs_short() -> None:
    """With enough stock the hold is left to the sweeper."""
    books = Books(product("p", 20), created({"p": 8}, "old"))
    books.take(created({"p": 5}, minutes=40), at(40))
    assert (20, 13) == books.stock()


def test_only_holds_on_the_short_products_expire() -> None:
    """A due hold on another product could not help the order, so it stays."""
    books = Books(product("p", 10), product("q", 10), created({"p": 8}, "old"), created({"q": 8}, "other"))
    books.take(created({"p": 5, "q": 1}, minutes=40), at(40))
    assert (OrderStatus.EXPIRED, OrderStatus.RESERVED) == (
        books.state.orders["old"].status,
        books.state.orders["other"].status,
    )


@pytest.mark.parametrize("holder", [created({"q": 8}, "old"), cart({"q": 8})], ids=["order", "cart"])
def test_a_due_hold_without_the_short_product_stays(holder: Event) -> None:
    """Expiring it would not help."""
    books = Books(product("p", 4, 0), product("q", 10, 0), holder)
    decision = books.take(created({"p": 5}, minutes=40), at(40))
    assert (Disposition.REFUSED, (10, 8)) == (decision.disposition, books.stock("q"))


def test_a_cart_that_released_the_product_since_it_was_found_stays() -> None:
    """A hold is judged by what it is when the command is decided, not when it was found."""
    books = Books(product("p", 4, 0), product("q", 10, 0), cart({"p": 4}))
    due = DueHolds(books.state, at(60), {"p": None})
    emptied, short = (command(one) for one in (cart({"q": 1}, minutes=1), created({"p": 5})))
    assert [] == step(books.state, emptied, books.policy, due).expiries
    assert ([], {"p": 1}) == step(books.state, short, books.policy, due)[1:]


@pytest.mark.parametrize(
    "since",
    [cart({"p": 4}, 50), cart({"p": 3, "q": 1}, 50)],
    ids=["the same lines", "other lines"],
)
def test_a_cart_that_was_renewed_since_it_was_found_stays(since: Event) -> None:
    """Its deadline is another by now."""
    books = Books(product("p", 4, 0), product("q", 10, 0), cart({"p": 4}))
    due = DueHolds(books.state, at(60), {"p": None})
    step(books.state, command(since), books.policy, due)
    assert [] == step(books.state, command(created({"p": 5}, minutes=51)), books.policy, due).expiries


def test_an_order_that_released_the_product_since_it_was_found_stays() -> None:
    """A line that is cancelled holds nothing, though the order still holds others."""
    books = Books(product("p", 4, 0), product("q", 10, 0), created({"p": 4, "q": 1}, "old"))
    due = DueHolds(books.state, at(60), {"p": None})
    step(books.state, command(cancelled({"p": 4}, "old")), books.policy, due)
    assert ([], {"p": 1}) == step(books.state, command(created({"p": 5})), books.policy, due)[1:]


@pytest.mark.parametrize("holder", [created({"p": 4}, "old"), cart({"p": 4})], ids=["order", "cart"])
def test_a_hold_that_is_due_when_it_is_made_expires_too(holder: Event) -> None:
    """Of a backlog, say: it is known from the decision that made it."""
    books = Books(product("p", 4, 0))
    due = DueHolds(books.state, at(60), {"p": None})
    step(books.state, command(holder), books.policy, due)
    assert 1 == len(step(books.state, command(created({"p": 4}, minutes=90)), books.policy, due).expiries)
    assert (4, 4) == books.stock()


def _expired(books: Books, want: Event, due: DueHolds) -> list[str]:
    """Return the owners of the holds that expired in favour of an event, in order."""
    expiries = step(books.state, command(want), books.policy, due).expiries
    return [
        one.reference_id for decision in expiries for one in decision.outcomes if isinstance(one, ReservationOutcome)
    ]


def test_the_oldest_hold_goes_first_whichever_product_it_holds() -> None:
    """Until each product has the units that are missing."""
    holders = [
        created({line: 1}, name, minutes=minutes)
        for name, line, minutes in (("a", "p", 0), ("b", "p", 1), ("c", "q", 2))
    ]
    books = Books(product("p", 2, 0), product("q", 1, 0), *holders)
    due = DueHolds(books.state, at(60), {"p": None, "q": None})
    assert ["a", "b", "c"] == _expired(books, created({"p": 2, "q": 1}, minutes=90), due)


@pytest.mark.parametrize("known", [True, False], ids=["found before", "made in this batch"])
def test_a_commands_own_cart_does_not_count_as_more_stock(*, known: bool) -> None:
    """Its units were available to the command before it expired, so others must expire as well, in their order."""
    own = cart({"p": 2})
    others = (created({"p": 2}, "a", minutes=20), created({"q": 1}, "b", minutes=21))
    books = Books(product("p", 4, 0), product("q", 1, 0), *others, *((own,) if known else ()))
    due = DueHolds(books.state, at(60), {"p": None, "q": None})
    if not known:
        step(books.state, command(own), books.policy, due)
    assert ["c", "a", "b"] == _expired(books, created({"p": 4, "q": 1}, cart="c", minutes=90), due)
    assert ((4, 4), (1, 1)) == (books.stock("p"), books.stock("q"))


@pytest.mark.parametrize(
    ("asked", "until", "expired", "exhausted"),
    [
        (1, "a", ["a"], set()),
        (2, "a", ["a"], {"p"}),
        (2, "b", ["a", "b"], set()),
        (3, "b", ["a", "b"], {"p"}),
        (3, None, ["a", "b"], set()),
    ],
    ids=["enough", "more were not loaded", "just enough", "none left, more were not loaded", "none left"],
)
def test_holds_beyond_those_that_were_loaded_are_asked_for(
    asked: int, until: str | None, expired: list[str], exhausted: set[str]
) -> None:
    """A later hold may come before one that is known here, so the product is exhausted rather than out of order."""
    books = Books(product("p", 2, 0), *(created({"p": 1}, name, minutes=n) for n, name in enumerate("ab")))
    last = None if until is None else DueHold(at(15 + "ab".index(until)), "order", until)
    due = DueHolds(books.state, at(60), {"p": last})
    assert expired == _expired(books, created({"p": asked}, minutes=90), due)
    assert exhausted == due.exhausted


def test_no_more_holds_expire_than_are_needed() -> None:
    """The oldest go first: by deadline, then carts before orders, then by id."""
    others = [created({"p": 1}, name, minutes=15) for name in ("b", "a")]
    books = Books(product("p", 5, 0), *others, cart({"p": 1}), created({"p": 1}, "z", minutes=14))
    expired = []
    for number in range(4):
        before = len(books.outcomes)
        books.take(created({"p": 1 + (number == 0)}, f"new{number}", minutes=90), at(60))
        expired.append(
            [one.reference_id for one in books.outcomes[before:] if isinstance(one, ReservationOutcome)][:-1]
        )
    assert [["z"], ["c"], ["a"], ["b"]] == expired


def test_a_hold_that_expired_in_vain_stays_expired() -> None:
    """It was due anyway, even though the order is refused because its units are not enough."""
    books = Books(product("p", 10), created({"p": 8}, "old"))
    decision = books.take(created({"p": 11}, minutes=40), at(40))
    assert (Disposition.REFUSED, (10, 0)) == (decision.disposition, books.stock())


def test_the_deadline_is_the_policys() -> None:
    """The time to live is a setting."""
    books = Books(product("p", 10), policy=Policy(order_ttl=at(5) - at(0)))
    books.take(created({"p": 1}))
    assert at(5) == books.state.orders["o"].expires_at
