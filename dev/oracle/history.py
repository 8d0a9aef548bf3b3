"""Check observations of a run with many workers, where nobody knows in which order the events took effect.

Four checks, each using only what the contracts make visible:

- each product's ledger has no holes and no impossible entries, and ends at the product's stock;
- each order's movements, status and outcomes follow from *some* order of its events and *some* answers about stock;
- each cart holds what its newest snapshot asks for, or its shortage was published;
- each product's alerts, returns to stock included, are exactly the edges of its ledger.

The assumed answers are checked as well: an order may only be refused for lack of stock if available was that low at
some time.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from dev.oracle.events import Event, PublishedEvent, read
from dev.oracle.shop import Product, Settings, Shop, Verdict, is_edge, status_of

END_OF_TIME = datetime.max.replace(tzinfo=UTC)
NO_STOCK = frozenset({"insufficient_stock", "unknown_product"})
STEPS_PER_ORDER = 20_000

Row = Mapping[str, Any]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Observed:
    """The state after the run, as seen through the contracts.

    `stock` maps a product to (on_hand, reserved), `orders` an order to its status, `holds` a cart to its held units by
    product. `ledger` are rows of `inventory_transactions`. `outgoing` are the bodies of outgoing events with their
    `type`; those about one product are in the order of publication. `refused` maps the id of a refused event to the
    reason. `dead_lettered` are the ids of events that became dead letters because they waited past their deadline.
    """

    stock: Mapping[str, tuple[int, int]]
    ledger: Sequence[Row]
    orders: Mapping[str, str]
    holds: Mapping[str, Mapping[str, int]]
    outgoing: Sequence[Row]
    refused: Mapping[str, str | None] = field(default_factory=dict)
    dead_lettered: Collection[str] = ()


@dataclass(frozen=True)
class Violation:
    """A broken rule: its kind, the product, order or cart concerned, and the evidence."""

    kind: str
    subject: str
    message: str


def check(events: Iterable[PublishedEvent], observed: Observed, settings: Settings | None = None) -> list[Violation]:
    """Return everything in `observed` that no order of `events` explains; an empty list is a pass."""
    history = _History(list(_once(events)), observed, settings or Settings())
    return [
        violation
        for product_id in sorted(history.products)
        for violation in (
            *_ledger(history, product_id),
            *_adjustments(history, product_id),
            *_edges(history, product_id),
        )
    ] + [
        violation
        for owners, judge in ((history.orders, _order), (history.carts, _cart))
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


@dataclass
class _History:
    """The events and the observations, grouped by product, order and cart."""

    events: list[Event]
    observed: Observed
    settings: Settings
    products: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    orders: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    carts: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    outgoing: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    entries: dict[tuple[str, str], list[Row]] = field(default_factory=lambda: defaultdict(list))
    facts: dict[str, frozenset[str]] = field(default_factory=dict)
    refunds: frozenset[str] = frozenset()
    converted: dict[str, datetime] = field(default_factory=dict)
    lowest: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for event in self.events:
            if event.topic in {"product.created", "inventory.adjustment"}:
                self.products[event.data["product_id"]].append(event)
            elif event.topic == "cart.updated":
                self.carts[event.data["cart_id"]].append(event)
            elif event.id not in self.observed.dead_lettered:
                self.orders[event.data["order_id"]].append(event)
        for row in sorted(self.observed.ledger, key=lambda row: row["sequence"]):
            self.rows[row["product_id"]].append(row)
            self.entries[row["reference_type"], row["reference_id"]].append(row)
        for body in self.observed.outgoing:
            self.outgoing[body.get("order_id") or body.get("cart_id") or body["product_id"]].append(body)
        for product_id in (*self.observed.stock, *list(self.rows)):
            self.products.setdefault(product_id, [])
        self.facts = {order_id: frozenset(event.id for event in events) for order_id, events in self.orders.items()}
        self.refunds = frozenset(event.id for event in self.events if event.topic == "payment.refunded")
        self._find_conversions()

    def _find_conversions(self) -> None:
        """Set for each cart the time of the last served order that took its hold over."""
        served = {
            body["caused_by"]
            for body in self.observed.outgoing
            if body["type"].rpartition(".")[2] in {"reserved", "deducted", "released"}
        }
        for event in self.events:
            if event.topic == "order.created" and event.data.get("cart_id") and event.id in served:
                cart_id = event.data["cart_id"]
                self.converted[cart_id] = max(event.at, self.converted.get(cart_id, event.at))

    def lowest_available(self, product_id: str) -> int:
        """Return the fewest units that were ever available of a product while it was known."""
        if product_id not in self.lowest:
            rows = self.rows.get(product_id, [])
            was_empty = not rows or rows[0]["reference_type"] != "IMPORT"
            self.lowest[product_id] = min(
                [row["on_hand_after"] - row["reserved_after"] for row in rows] + [0] * was_empty
            )
        return self.lowest[product_id]


# --- ledgers ------------------------------------------------------------------------------------

CHANGES = {
    "IN": {(1, 0)},
    "OUT": {(-1, -1), (-1, 0)},
    "RESERVE": {(0, 1)},
    "RELEASE": {(0, -1)},
    "ADJUST": {(1, 0), (-1, 0)},
}


def _ledger(history: _History, product_id: str) -> Iterator[Violation]:
    """Replay one product's ledger from nothing; it must end at the observed stock."""
    on_hand = reserved = 0
    for sequence, row in enumerate(history.rows[product_id], start=1):
        where = f"entry {row['sequence']} ({row['type']} {row['quantity']}, event {row['event_id']})"
        if row["sequence"] != sequence:
            yield Violation("ledger", product_id, f"{where}: entry {sequence} is missing or duplicated")
            return
        if (row["on_hand_before"], row["reserved_before"]) != (on_hand, reserved):
            yield Violation("ledger", product_id, f"{where} does not start at {on_hand}/{reserved}")
        change = (row["on_hand_after"] - row["on_hand_before"], row["reserved_after"] - row["reserved_before"])
        quantity = row["quantity"]
        if quantity <= 0 or change not in {(a * quantity, b * quantity) for a, b in CHANGES[row["type"]]}:
            yield Violation("ledger", product_id, f"{where} must not change the stock by {change}")
        on_hand, reserved = row["on_hand_after"], row["reserved_after"]
        if not 0 <= reserved <= on_hand:
            yield Violation("oversold", product_id, f"{where} leaves {on_hand} on hand and {reserved} reserved")
    stock = history.observed.stock.get(product_id)
    if stock is None:
        if any(event.topic == "product.created" for event in history.products[product_id]):
            yield Violation("lost", product_id, "the product was created and is missing")
    elif stock != (on_hand, reserved):
        yield Violation("ledger", product_id, f"the ledger ends at {on_hand}/{reserved}, the stock is {stock}")


def _adjustments(history: _History, product_id: str) -> Iterator[Violation]:
    """Each creation and adjustment is in the ledger once with its effect, or was refused for a valid reason."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in history.rows[product_id]:
        if row["reference_type"] not in {"ORDER", "CART"}:
            rows[row["event_id"]].append(row)
    created = [event for event in history.products[product_id] if event.topic == "product.created"]
    creations = sum(len(rows.pop(event.id, [])) for event in created)
    wanted = {min(1, event.data.get("initial_quantity", 0)) for event in created}
    if created and creations not in wanted:
        yield Violation(
            "double_applied" if creations else "lost", product_id, f"its initial stock was received {creations} times"
        )
    for event in history.products[product_id]:
        if event.topic != "inventory.adjustment":
            continue
        found = rows.pop(event.id, [])
        if len(found) > 1 or (found and event.id in history.observed.refused):
            yield Violation("double_applied", product_id, f"adjustment {event.id} has {len(found)} entries")
        elif found and not _is_effect(event, found[0]):
            yield Violation("ledger", product_id, f"adjustment {event.id} has the wrong effect: {dict(found[0])}")
        elif not found and not _may_be_silent(history, product_id, event):
            yield Violation("lost", product_id, f"adjustment {event.id} has no entry and no valid refusal")
    for event_id in rows:
        yield Violation("unexpected", product_id, f"entries of {event_id}, an event that was never published")


def _is_effect(event: Event, row: Row) -> bool:
    change, quantity = row["on_hand_after"] - row["on_hand_before"], event.data.get("quantity", 0)
    if event.data.get("operation") == "SET":
        return bool(row["on_hand_after"] == quantity)
    return bool(change == (quantity if event.data.get("operation") == "ADD" else -quantity))


def _may_be_silent(history: _History, product_id: str, event: Event) -> bool:
    """Say whether an adjustment may have no entry: it changes no stock, or was refused for a reason that can apply."""
    operation, quantity = event.data.get("operation"), event.data.get("quantity", 0)
    states = [(0, 0), *((row["on_hand_after"], row["reserved_after"]) for row in history.rows[product_id])]
    if operation is None or (operation != "SET" and quantity == 0):
        return True
    if event.id not in history.observed.refused:
        return operation == "SET" and any(on_hand == quantity for on_hand, _ in states)
    match history.observed.refused[event.id]:
        case "stale_version":
            return event.data.get("expected_version") is not None
        case "below_reserved" if operation != "ADD":
            return any(
                (quantity if operation == "SET" else on_hand - quantity) < reserved for on_hand, reserved in states
            )
        case reason:  # the product may not have been created yet
            return reason == "unknown_product"


# --- orders -------------------------------------------------------------------------------------


@dataclass
class _AssumedStock:
    """An assumed answer from the stock: there is enough or there is not, but never of a product that never existed."""

    known: frozenset[str]
    is_enough: bool = True
    was_asked: bool = False

    def __deepcopy__(self, memo: object) -> "_AssumedStock":
        """Copies share the set of products: it is large and immutable."""
        return _AssumedStock(self.known, self.is_enough, self.was_asked)

    def __call__(self, needed: Mapping[str, int]) -> bool:
        self.was_asked = True
        return self.is_enough and needed.keys() <= self.known


@dataclass(frozen=True)
class _Effect:
    """What an order's events led to: its status, the units moved and the outcomes, regardless of when."""

    status: str
    moved: frozenset[tuple[tuple[str, str], int]]
    outcomes: frozenset[tuple[tuple[Any, ...], int]]


def _order(history: _History, order_id: str) -> Iterator[Violation]:
    """Search for an order of the events, and answers from the stock, that lead to what was observed."""
    events = sorted(history.orders[order_id], key=lambda event: event.at)
    outcomes = Counter(_observed_outcome(body) for body in history.outgoing[order_id])
    moved: Counter[tuple[str, str]] = Counter()
    for row in history.entries.get(("ORDER", order_id), ()):
        moved[row["product_id"], row["type"]] += row["quantity"]
    observed = _Effect(history.observed.orders.get(order_id, "pending"), _frozen(moved), _frozen(outcomes))
    answer = _AssumedStock(frozenset(history.observed.stock))
    shop = Shop(history.settings, has_stock=answer)
    for product_id in {product_id for event in events for product_id in event.lines or {}}:
        shop.products[product_id] = Product(on_hand=10**12)
    search = _Search(order_id, observed, outcomes)
    if not search.explains(shop, answer, events, Counter(), may_expire="expired" in {kind for kind, *_ in outcomes}):
        nearest = "; ".join(f"{event.topic} {event.id}" for event in events)
        yield Violation("order", order_id, f"no permutation of its events ({nearest}) leads to {observed}")
    yield from _refusals(history, order_id)


@dataclass
class _Search:
    """Tries the permutations of one order's events; gives a branch up once it has an outcome that was not observed."""

    order_id: str
    observed: _Effect
    outcomes: Counter[tuple[Any, ...]]
    steps: int = 0

    def explains(
        self,
        shop: Shop,
        answer: _AssumedStock,
        events: list[Event],
        so_far: Counter[tuple[Any, ...]],
        *,
        may_expire: bool,
    ) -> bool:
        """Say whether some permutation of the remaining events leads from here to what was observed."""
        self.steps += 1
        if self.steps > STEPS_PER_ORDER:
            raise RuntimeError(f"order {self.order_id} has too many possible histories to check")
        if not events and not may_expire:
            return self._effect(shop, so_far) == self.observed
        for is_enough in (True, False):
            for index, event in enumerate(events):
                after, asked = deepcopy((shop, answer))
                asked.is_enough, asked.was_asked = is_enough, False
                total = so_far + _outcomes_of(after.apply(event.published))
                if (is_enough or asked.was_asked) and total <= self.outcomes:
                    rest = events[:index] + events[index + 1 :]
                    if self.explains(after, asked, rest, total, may_expire=may_expire):
                        return True
        if may_expire:
            after, asked = deepcopy((shop, answer))
            total = so_far + _outcomes_of(after.expire_order(self.order_id, END_OF_TIME))
            if total != so_far and total <= self.outcomes:
                return self.explains(after, asked, events, total, may_expire=False)
        return False

    def _effect(self, shop: Shop, so_far: Counter[tuple[Any, ...]]) -> _Effect:
        order = shop.orders.get(self.order_id)
        moved = Counter({(p, kind): n for p, product in shop.products.items() for kind, n in product.ledger.items()})
        return _Effect("pending" if order is None else order.status, _frozen(moved), _frozen(so_far))


def _outcomes_of(verdict: Verdict) -> Counter[tuple[Any, ...]]:
    return Counter(
        (outcome.kind, _cause(outcome.cause), outcome.lines, _reason(outcome.reason)) for outcome in verdict.outcomes
    )


def _observed_outcome(body: Row) -> tuple[Any, ...]:
    """Return an observed outcome in the form of `_outcomes_of`; a refusal's lines are shortages, so no units moved."""
    reason = _reason(body.get("reason"))
    lines = () if reason else tuple(sorted((line["product_id"], line["quantity"]) for line in body.get("lines", ())))
    return (str(body["type"]).rpartition(".")[2], _cause(body["caused_by"]), lines, reason)


def _reason(reason: str | None) -> str | None:
    """Unknown product and insufficient stock are one answer here: which applies depends on timing."""
    return "no_stock" if reason in NO_STOCK else reason


def _cause(cause: str) -> str:
    return "expired" if cause.startswith("expired:") else cause


def _frozen(counts: Counter[Key]) -> frozenset[tuple[Key, int]]:
    return frozenset((key, count) for key, count in counts.items() if count)


def _refusals(history: _History, order_id: str) -> Iterator[Violation]:
    """An order refused for lack of stock must name only lines of which too little was available at some time."""
    for body in history.outgoing[order_id]:
        if body.get("reason") != "insufficient_stock":
            continue
        short = [line for line in body["lines"] if line["reason"] == "insufficient_stock"]
        if not all(line["available"] < line["requested"] for line in short):
            yield Violation("unjustified", order_id, f"refused although enough was available: {dict(body)}")
        if not all(history.lowest_available(line["product_id"]) < line["requested"] for line in short):
            yield Violation("unjustified", order_id, f"refused for stock that was never that low: {dict(body)}")


# --- carts --------------------------------------------------------------------------------------


def _cart(history: _History, cart_id: str) -> Iterator[Violation]:
    """Compare a cart's final hold with its newest snapshot since its last order."""
    held = {p: n for p, n in history.observed.holds.get(cart_id, {}).items() if n}
    net: Counter[str] = Counter()
    for row in history.entries.get(("CART", cart_id), ()):
        net[row["product_id"]] += row["quantity"] * (1 if row["type"] == "RESERVE" else -1)
    if held != {p: n for p, n in net.items() if n}:
        yield Violation("cart", cart_id, f"holds {held}, but its ledger adds up to {dict(net)}")
    newest = _newest_snapshot(history, cart_id)
    wanted = (newest.lines if newest else None) or {}
    outgoing = history.outgoing[cart_id]
    if not held and any(body["type"].endswith(".expired") for body in outgoing):
        return
    missing = {p: n for p, n in wanted.items() if held.get(p, 0) < n}
    excess = {p: n for p, n in held.items() if n > wanted.get(p, 0)}
    reported = {
        line["product_id"]
        for body in outgoing
        if body["type"].endswith(".cart_shortage") and newest is not None and body["caused_by"] == newest.id
        for line in body["lines"]
    }
    if excess or not missing.keys() <= reported:
        yield Violation("cart", cart_id, f"holds {held}, but its newest snapshot asks for {dict(wanted)}")


def _newest_snapshot(history: _History, cart_id: str) -> Event | None:
    """Return the snapshot that must be in effect: the newest by version, else time, since the cart's last order."""
    converted = history.converted.get(cart_id)
    snapshots = history.carts[cart_id]
    fresh = [
        event
        for event in snapshots
        if (converted is None or event.at > converted) and not _was_outdated(history, event, snapshots)
    ]
    return max(fresh, key=lambda event: (event.data.get("version") or 0, event.at), default=None)


def _was_outdated(history: _History, event: Event, snapshots: list[Event]) -> bool:
    """Say whether a snapshot lost to one with a newer version, whose hold an order may have taken over since."""
    version = event.data.get("version")
    return history.observed.refused.get(event.id) == "stale_version" and any(
        other is not event and version is not None and (other.data.get("version") or 0) >= version
        for other in snapshots
    )


# --- edges --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Change:
    """One event's change of one product: the stock after it, a new threshold, and the events that may have caused it.

    With `may_join`, it may be one decision with the change before it: a refund that waited is judged together with the
    event it waited for, and the edge on the net of both.
    """

    on_hand: int
    reserved: int
    threshold: int | None
    causes: frozenset[str]
    may_join: bool = False


@dataclass(frozen=True)
class _Place:
    """A position in the walk through changes and alerts: how many of each are behind it, and the state reached.

    `returns` counts the alerts of `inventory.back_in_stock`; `available` is None before the product's creation.
    """

    changes: int
    alerts: int
    returns: int
    available: int | None
    used_thresholds: frozenset[int]
    threshold: int
    reported: str


class _Alerts:
    """The alerts of one product in their order: edges of its stock status, and returns to stock."""

    def __init__(self, bodies: Iterable[Row]) -> None:
        self.edges: list[Row] = []
        self.returns: list[Row] = []
        for body in bodies:
            (self.returns if body["type"] == "inventory.back_in_stock" else self.edges).append(body)


def _edges(history: _History, product_id: str) -> Iterator[Violation]:
    """Walk through the product's changes and its alerts side by side; both must be used up at the same time.

    A new threshold without a change of stock leaves no entry, so it may have applied anywhere: every place is tried.
    """
    alerts = _Alerts([body for body in history.outgoing[product_id] if body.get("product_id") == product_id])
    changes, thresholds = _changes(history, product_id), _thresholds(history, product_id)
    if not changes:
        return
    start = _Place(0, 0, 0, None, frozenset(), 0, "ok")
    frontier, reached = [start], {start}
    while frontier:
        place = frontier.pop()
        is_end = (place.changes, place.alerts, place.returns) == (
            len(changes),
            len(alerts.edges),
            len(alerts.returns),
        )
        if is_end and all(i in place.used_thresholds or may_fail for i, (_, may_fail) in enumerate(thresholds)):
            return
        for following in _following(place, changes, thresholds, alerts):
            if following not in reached:
                reached.add(following)
                frontier.append(following)
    yield from _name_edges(product_id, changes, alerts)


def _following(
    place: _Place, changes: list[_Change], thresholds: list[tuple[_Change, bool]], alerts: _Alerts
) -> Iterator[_Place]:
    if place.changes < len(changes):
        change = changes[place.changes]
        yield from _taken(place, change, alerts, place.changes + 1, place.used_thresholds)
        if place.changes + 1 < len(changes) and changes[place.changes + 1].may_join:
            threshold = place.threshold if change.threshold is None else change.threshold
            yield replace(place, changes=place.changes + 1, threshold=threshold)
    if place.changes:
        stock = changes[place.changes - 1]
        for index, (change, _) in enumerate(thresholds):
            if index not in place.used_thresholds:
                moved = _Change(stock.on_hand, stock.reserved, change.threshold, change.causes)
                yield from _taken(place, moved, alerts, place.changes, place.used_thresholds | {index})


def _taken(place: _Place, change: _Change, alerts: _Alerts, changes: int, used: frozenset[int]) -> Iterator[_Place]:
    threshold = place.threshold if change.threshold is None else change.threshold
    available = change.on_hand - change.reserved
    now = status_of(available, threshold)
    alerted, returned = is_edge(place.reported, now), place.available == 0 < available
    if alerted and not _says(alerts.edges, place.alerts, change, threshold, now):
        return
    if returned and not _says(alerts.returns, place.returns, change, threshold, now):
        return
    yield _Place(
        changes,
        place.alerts + alerted,
        place.returns + returned,
        available,
        used,
        threshold,
        now if alerted else place.reported,
    )


def _says(alerts: list[Row], index: int, change: _Change, threshold: int, status: str) -> bool:
    """Say whether the alert at `index` exists and is the one of `change`."""
    if index >= len(alerts):
        return False
    alert = alerts[index]
    reported = (_severity(alert), alert["on_hand"], alert["reserved"], alert["threshold"])
    return reported == (status, change.on_hand, change.reserved, threshold) and (
        _cause(alert["caused_by"]) in change.causes
    )


def _severity(alert: Row) -> str:
    return "ok" if alert["type"] == "inventory.stock_recovered" else str(alert["severity"])


def _changes(history: _History, product_id: str) -> list[_Change]:
    """Read the product's changes from its ledger, one per event; its creation is the first."""
    created = [event for event in history.products[product_id] if event.topic == "product.created"]
    if not created:
        return []
    rows = history.rows[product_id]
    creations = [event for event in created if rows and event.id == rows[0]["event_id"]] or created[:1]
    threshold = creations[0].data.get("low_stock_threshold")
    threshold = history.settings.default_threshold if threshold is None else threshold
    new_thresholds = {e.id: e.data.get("low_stock_threshold") for e in history.products[product_id]}
    changes: list[_Change] = []
    if not rows or rows[0]["event_id"] != creations[0].id:
        changes.append(_Change(0, 0, threshold, frozenset({creations[0].id})))
    last: Row | None = None
    for row in rows:
        owner = row["reference_id"] if row["reference_type"] == "ORDER" else None
        causes = frozenset({_cause(row["event_id"])}) | history.facts.get(owner or "", frozenset())
        new = threshold if not changes else new_thresholds.get(row["event_id"])
        may_join = last is not None and row["event_id"] in history.refunds and last["reference_id"] == owner
        change = _Change(row["on_hand_after"], row["reserved_after"], new, causes, may_join)
        if last is not None and last["event_id"] == row["event_id"]:
            first = changes[-1]
            changes[-1] = _Change(
                change.on_hand, change.reserved, first.threshold, first.causes | causes, first.may_join
            )
        else:
            changes.append(change)
        last = row
    return changes


def _thresholds(history: _History, product_id: str) -> list[tuple[_Change, bool]]:
    """Return the new thresholds that have no entry, and whether each may have been refused."""
    with_entry = {row["event_id"] for row in history.rows[product_id]}
    return [
        (_Change(0, 0, event.data["low_stock_threshold"], frozenset({event.id})), event.id in history.observed.refused)
        for event in history.products[product_id]
        if event.topic == "inventory.adjustment"
        and event.data.get("low_stock_threshold") is not None
        and event.id not in with_entry
    ]


def _name_edges(product_id: str, changes: list[_Change], alerts: _Alerts) -> Iterator[Violation]:
    """Yield which alerts are missing and which have no edge, as far as the ledger alone shows."""
    threshold, reported = 0, "ok"
    before: int | None = None
    expected: Counter[tuple[str, int, int]] = Counter()
    for change in changes:
        threshold = threshold if change.threshold is None else change.threshold
        now = status_of(change.on_hand - change.reserved, threshold)
        if is_edge(reported, now):
            reported = now
            expected[now, change.on_hand, change.reserved] += 1
        available = change.on_hand - change.reserved
        if before == 0 < available:
            expected["back in stock", change.on_hand, change.reserved] += 1
        before = available
    seen = Counter((_severity(a), a["on_hand"], a["reserved"]) for a in alerts.edges)
    seen.update(("back in stock", a["on_hand"], a["reserved"]) for a in alerts.returns)
    for edge, count in (expected - seen).items():
        yield Violation("low_stock_missing", product_id, f"{count} alerts {edge} were never published")
    for edge, count in (seen - expected).items():
        yield Violation("low_stock_repeated", product_id, f"{count} alerts {edge} have no edge")
    if seen == expected:
        yield Violation("low_stock_order", product_id, "the alerts are right, but their order or causes are wrong")
