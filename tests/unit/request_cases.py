"""What the tests of requests begin with: the cause of a request, and a shop in which events happened."""

from domain.model import Cause, Decision, Disposition, Reason
from tests.unit.domain_cases import Books, Event, at, product

NOW = Cause("api", "request", at(10))


def given(*events: Event, on_hand: int = 10) -> Books:
    """Return a shop with `on_hand` units of p and 10 of q where the events happened; its user is `u`."""
    return Books(product("p", on_hand, 0), product("q", 10, 0), *events)


def refused(reason: Reason) -> Decision:
    """Return the bare refusal for `reason`."""
    return Decision(Disposition.REFUSED, reason)
