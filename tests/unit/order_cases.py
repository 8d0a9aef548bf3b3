"""What the tests of orders begin with: the usual facts of order `o`, and a shop in which they happened."""

from domain.commands import ExpireOrder
from domain.model import Policy
from tests.unit.domain_cases import Books, Event, at, cancelled, created, paid, product

EXPIRE = "expire"

CREATE = created({"p": 4})
PAY = paid()
CANCEL = cancelled()
ORDER_OF_FIVE = created({"p": 5, "q": 2})

Given = tuple[Event | str, ...]


def given(*events: Event | str, on_hand: int = 10, policy: Policy | None = None) -> Books:
    """Return a shop with `on_hand` units of p where the events happened; EXPIRE sweeps the order."""
    return _happened(Books(product("p", on_hand, 0), policy=policy), events)


def given_two(*events: Event | str) -> Books:
    """Return a shop with 10 units of p and 10 of q where the events happened; EXPIRE sweeps the order."""
    return _happened(Books(product("p", 10, 0), product("q", 10, 0)), events)


def _happened(books: Books, events: Given) -> Books:
    for published in events:
        if isinstance(published, str):
            books.obey(ExpireOrder("o", at(24 * 60)))
        else:
            books.take(published)
    return books
