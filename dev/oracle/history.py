"""Check observations of a run with many workers, where nobody knows in which order the events took effect.

Four checks, each using only what the contracts make visible:

- each product's ledger has no holes and no impossible entries, and ends at the product's stock;
- each order's movements, status and outcomes follow from *some* order of its events and *some* answers about stock;
- each cart holds what its newest snapshot asks for, or its shortage was published;
- each product's alerts, returns to stock included, are exactly the edges of its ledger.

The assumed answers are checked as well: an order may only be refused for lack of stock if available was that low at
some time.
"""

from collections.abc import Iterable, Iterator

from dev.oracle.alert_check import check_alerts
from dev.oracle.cart_check import check_cart
from dev.oracle.events import Event, PublishedEvent, read
from dev.oracle.ledger_check import check_adjustments, check_ledger
from dev.oracle.observations import History, Observed, Violation
from dev.oracle.order_check import check_order
from dev.oracle.settings import Settings


def check(events: Iterable[PublishedEvent], observed: Observed, settings: Settings | None = None) -> list[Violation]:
    """Return everything in `observed` that no order of `events` explains; an empty list is a pass."""
    history = History(list(_once(events)), observed, settings or Settings())
    return [
        violation
        for product_id in sorted(history.products)
        for violation in (
            *check_ledger(history, product_id),
            *check_adjustments(history, product_id),
            *check_alerts(history, product_id),
        )
    ] + [
        violation
        for owners, judge in ((history.orders, check_order), (history.carts, check_cart))
        for owner_id in sorted(owners)
        for violation in judge(history, owner_id)
    ]


def _once(published: Iterable[PublishedEvent]) -> Iterator[Event]:
    """Yield each event once: repeats must have no effect at all."""
    seen: set[tuple[str, str]] = set()
    for event in map(read, published):
        if event.identity not in seen:
            seen.add(event.identity)
            yield event
