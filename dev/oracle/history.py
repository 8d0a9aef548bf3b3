"""Says whether what was observed is allowed, when many workers ran and nobody knows in which order events took effect.

Four questions, each answered from what the contracts show and nothing else:

- each product's ledger is a whole story, and the stock is its last sentence;
- each order's stock, status and outcomes are those of *some* order of its events, with *some* luck at the shelf;
- each cart holds what its newest snapshot asks for, or what is missing was told;
- each product's alerts are exactly the edges of its ledger.

Luck is held to account too: an order may only be refused for want of stock if the stock was that low at some time.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from dev.oracle.events import Event, PublishedEvent, read
from dev.oracle.shop import Settings, Shelf, Shop, Verdict, must_tell, status_of

END_OF_TIME = datetime.max.replace(tzinfo=UTC)
NO_STOCK = frozenset({"insufficient_stock", "unknown_product"})
STEPS_PER_ORDER = 20_000

Row = Mapping[str, Any]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Observed:
    """What is there afterwards, as the contracts have it.

    `stock` maps a product to on_hand and reserved, `ledger` are rows of `inventory_transactions`, `orders` maps an
    order to its status, `holds` a cart to what it holds. `told` are the bodies of outgoing events with their `type`,
    for one product in the order in which they were published. `refused` maps the id of an event to why it was refused;
    `given_up` are ids of events that were dead-lettered because they waited too long.
    """

    stock: Mapping[str, tuple[int, int]]
    ledger: Sequence[Row]
    orders: Mapping[str, str]
    holds: Mapping[str, Mapping[str, int]]
    told: Sequence[Row]
    refused: Mapping[str, str | None] = field(default_factory=dict)
    given_up: Collection[str] = ()


@dataclass(frozen=True)
class Violation:
    """One thing that must not be: of which kind, about whom, and what shows it."""

    kind: str
    subject: str
    message: str


def check(events: Iterable[PublishedEvent], observed: Observed, settings: Settings | None = None) -> list[Violation]:
    """Return everything about `observed` that no order of `events` explains; an empty list is a pass."""
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
    """Leave out repeats of the same event: they must not show in any way."""
    seen: set[tuple[str, str]] = set()
    for event in map(read, published):
        if event.identity not in seen:
            seen.add(event.identity)
            yield event


@dataclass
class _History:
    """The events and what was observed, sorted by whom they are about."""

    events: list[Event]
    observed: Observed
    settings: Settings
    products: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    orders: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    carts: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    told: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
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
            elif event.id not in self.observed.given_up:
                self.orders[event.data["order_id"]].append(event)
        for row in sorted(self.observed.ledger, key=lambda row: row["sequence"]):
            self.rows[row["product_id"]].append(row)
            self.entries[row["reference_type"], row["reference_id"]].append(row)
        for body in self.observed.told:
            self.told[body.get("order_id") or body.get("cart_id") or body["product_id"]].append(body)
        for product_id in (*self.observed.stock, *list(self.rows)):
            self.products.setdefault(product_id, [])
        self.facts = {order_id: frozenset(event.id for event in events) for order_id, events in self.orders.items()}
        self.refunds = frozenset(event.id for event in self.events if event.topic == "payment.refunded")
        self._note_conversions()

    def _note_conversions(self) -> None:
        """Note for each cart when its last order that was served took it over."""
        served = {
            body["caused_by"]
            for body in self.observed.told
            if body["type"].rpartition(".")[2] in {"reserved", "deducted", "released"}
        }
        for event in self.events:
            if event.topic == "order.created" and event.data.get("cart_id") and event.id in served:
                cart_id = event.data["cart_id"]
                self.converted[cart_id] = max(event.at, self.converted.get(cart_id, event.at))

    def lowest_free(self, product_id: str) -> int:
        """Return the least that was ever free of a product while it was known."""
        if product_id not in self.lowest:
            rows = self.rows.get(product_id, [])
            born_empty = not rows or rows[0]["reference_type"] != "IMPORT"
            self.lowest[product_id] = min(
                [row["on_hand_after"] - row["reserved_after"] for row in rows] + [0] * born_empty
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
    """Replay one product's ledger from nothing to the stock that is there."""
    on_hand = reserved = 0
    for sequence, row in enumerate(history.rows[product_id], start=1):
        where = f"entry {row['sequence']} ({row['type']} {row['quantity']}, event {row['event_id']})"
        if row["sequence"] != sequence:
            yield Violation("ledger", product_id, f"{where}: entry {sequence} is missing or there twice")
            return
        if (row["on_hand_before"], row["reserved_before"]) != (on_hand, reserved):
            yield Violation("ledger", product_id, f"{where} does not begin at {on_hand}/{reserved}")
        change = (row["on_hand_after"] - row["on_hand_before"], row["reserved_after"] - row["reserved_before"])
        quantity = row["quantity"]
        if quantity <= 0 or change not in {(a * quantity, b * quantity) for a, b in CHANGES[row["type"]]}:
            yield Violation("ledger", product_id, f"{where} changes the stock by {change}")
        on_hand, reserved = row["on_hand_after"], row["reserved_after"]
        if not 0 <= reserved <= on_hand:
            yield Violation("oversold", product_id, f"{where} leaves {on_hand} on hand and {reserved} reserved")
    stock = history.observed.stock.get(product_id)
    if stock is None:
        if any(event.topic == "product.created" for event in history.products[product_id]):
            yield Violation("lost", product_id, "the product was created and is not there")
    elif stock != (on_hand, reserved):
        yield Violation("ledger", product_id, f"the ledger ends at {on_hand}/{reserved}, the stock is {stock}")


def _adjustments(history: _History, product_id: str) -> Iterator[Violation]:
    """Each creation and adjustment is in the ledger once with its effect, or was refused with cause."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in history.rows[product_id]:
        if row["reference_type"] not in {"ORDER", "CART"}:
            rows[row["event_id"]].append(row)
    created = [event for event in history.products[product_id] if event.topic == "product.created"]
    births = sum(len(rows.pop(event.id, [])) for event in created)
    wanted = {min(1, event.data.get("initial_quantity", 0)) for event in created}
    if created and births not in wanted:
        yield Violation("double_applied" if births else "lost", product_id, f"its first stock came in {births} times")
    for event in history.products[product_id]:
        if event.topic != "inventory.adjustment":
            continue
        found = rows.pop(event.id, [])
        if len(found) > 1 or (found and event.id in history.observed.refused):
            yield Violation("double_applied", product_id, f"adjustment {event.id} has {len(found)} entries")
        elif found and not _is_effect(event, found[0]):
            yield Violation("ledger", product_id, f"adjustment {event.id} did not do what it says: {dict(found[0])}")
        elif not found and not _may_be_silent(history, product_id, event):
            yield Violation("lost", product_id, f"adjustment {event.id} has no entry and was not refused with cause")
    for event_id in rows:
        yield Violation("unexpected", product_id, f"entries of {event_id}, which nobody published")


def _is_effect(event: Event, row: Row) -> bool:
    change, quantity = row["on_hand_after"] - row["on_hand_before"], event.data.get("quantity", 0)
    if event.data.get("operation") == "SET":
        return bool(row["on_hand_after"] == quantity)
    return bool(change == (quantity if event.data.get("operation") == "ADD" else -quantity))


def _may_be_silent(history: _History, product_id: str, event: Event) -> bool:
    """Say whether an adjustment may have left no entry: it changes no stock, or was refused and could be."""
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
        case reason:  # the product may not have been known yet
            return reason == "unknown_product"


# --- orders -------------------------------------------------------------------------------------


@dataclass
class _Luck:
    """Stands in for the shelf: there is enough or there is not, but never of a product that never was."""

    known: frozenset[str]
    lucky: bool = True
    was_asked: bool = False

    def __deepcopy__(self, memo: object) -> "_Luck":
        """Copies share the products: they are many, and a frozen set."""
        return _Luck(self.known, self.lucky, self.was_asked)

    def __call__(self, needed: Mapping[str, int]) -> bool:
        self.was_asked = True
        return self.lucky and needed.keys() <= self.known


@dataclass(frozen=True)
class _Effect:
    """What an order came to: where it stands, what it moved and what was told, whoever and whenever."""

    status: str
    moved: frozenset[tuple[tuple[str, str], int]]
    told: frozenset[tuple[tuple[Any, ...], int]]


def _order(history: _History, order_id: str) -> Iterator[Violation]:
    """Look for an order of the events, and luck at the shelf, that leads to what was observed."""
    events = sorted(history.orders[order_id], key=lambda event: event.at)
    told = Counter(_told(body) for body in history.told[order_id])
    moved: Counter[tuple[str, str]] = Counter()
    for row in history.entries.get(("ORDER", order_id), ()):
        moved[row["product_id"], row["type"]] += row["quantity"]
    seen = _Effect(history.observed.orders.get(order_id, "pending"), _frozen(moved), _frozen(told))
    luck = _Luck(frozenset(history.observed.stock))
    shop = Shop(history.settings, luck=luck)
    for product_id in {product_id for event in events for product_id in event.lines or {}}:
        shop.shelves[product_id] = Shelf(on_hand=10**12)
    search = _Search(order_id, seen, told)
    if not search.explains(shop, luck, events, Counter(), may_expire="expired" in {kind for kind, *_ in told}):
        nearest = "; ".join(f"{event.topic} {event.id}" for event in events)
        yield Violation("order", order_id, f"no order of its events ({nearest}) leads to {seen}")
    yield from _refusals(history, order_id)


@dataclass
class _Search:
    """Walks through the orders of one order's events, and stops where something was told that was not observed."""

    order_id: str
    seen: _Effect
    told: Counter[tuple[Any, ...]]
    steps: int = 0

    def explains(
        self, shop: Shop, luck: _Luck, events: list[Event], said: Counter[tuple[Any, ...]], *, may_expire: bool
    ) -> bool:
        """Say whether these events, in some order, lead on from here to what was observed."""
        self.steps += 1
        if self.steps > STEPS_PER_ORDER:
            raise RuntimeError(f"order {self.order_id} has too many possible histories to check")
        if not events and not may_expire:
            return self._effect(shop, said) == self.seen
        for lucky in (True, False):
            for index, event in enumerate(events):
                after, drawn = deepcopy((shop, luck))
                drawn.lucky, drawn.was_asked = lucky, False
                total = said + _said(after.apply(event.published))
                if (lucky or drawn.was_asked) and total <= self.told:
                    rest = events[:index] + events[index + 1 :]
                    if self.explains(after, drawn, rest, total, may_expire=may_expire):
                        return True
        if may_expire:
            after, drawn = deepcopy((shop, luck))
            total = said + _said(after.expire_order(self.order_id, END_OF_TIME))
            if total != said and total <= self.told:
                return self.explains(after, drawn, events, total, may_expire=False)
        return False

    def _effect(self, shop: Shop, said: Counter[tuple[Any, ...]]) -> _Effect:
        order = shop.orders.get(self.order_id)
        moved = Counter({(p, kind): n for p, shelf in shop.shelves.items() for kind, n in shelf.ledger.items()})
        return _Effect("pending" if order is None else order.status, _frozen(moved), _frozen(said))


def _said(verdict: Verdict) -> Counter[tuple[Any, ...]]:
    return Counter(
        (outcome.kind, _cause(outcome.cause), outcome.lines, _reason(outcome.reason)) for outcome in verdict.outcomes
    )


def _told(body: Row) -> tuple[Any, ...]:
    """Put an observed outcome into the words of `_said`; a refusal's lines are what it lacks, not what moved."""
    reason = _reason(body.get("reason"))
    lines = () if reason else tuple(sorted((line["product_id"], line["quantity"]) for line in body.get("lines", ())))
    return (str(body["type"]).rpartition(".")[2], _cause(body["caused_by"]), lines, reason)


def _reason(reason: str | None) -> str | None:
    """Not known and not there are the same luck."""
    return "no_stock" if reason in NO_STOCK else reason


def _cause(cause: str) -> str:
    return "expired" if cause.startswith("expired:") else cause


def _frozen(counts: Counter[Key]) -> frozenset[tuple[Key, int]]:
    return frozenset((key, count) for key, count in counts.items() if count)


def _refusals(history: _History, order_id: str) -> Iterator[Violation]:
    """An order refused for want of stock must name a line that was short at some time."""
    for body in history.told[order_id]:
        if body.get("reason") != "insufficient_stock":
            continue
        short = [line for line in body["lines"] if line["reason"] == "insufficient_stock"]
        if not all(line["available"] < line["requested"] for line in short):
            yield Violation("unjustified", order_id, f"refused although there was enough: {dict(body)}")
        if not all(history.lowest_free(line["product_id"]) < line["requested"] for line in short):
            yield Violation("unjustified", order_id, f"refused for stock that was never that low: {dict(body)}")


# --- carts --------------------------------------------------------------------------------------


def _cart(history: _History, cart_id: str) -> Iterator[Violation]:
    """Hold a cart's final hold against its newest snapshot after its last order."""
    held = {p: n for p, n in history.observed.holds.get(cart_id, {}).items() if n}
    net: Counter[str] = Counter()
    for row in history.entries.get(("CART", cart_id), ()):
        net[row["product_id"]] += row["quantity"] * (1 if row["type"] == "RESERVE" else -1)
    if held != {p: n for p, n in net.items() if n}:
        yield Violation("cart", cart_id, f"holds {held}, its ledger says {dict(net)}")
    newest = _newest_snapshot(history, cart_id)
    wanted = (newest.lines if newest else None) or {}
    told = history.told[cart_id]
    if not held and any(body["type"].endswith(".expired") for body in told):
        return
    missing = {p: n for p, n in wanted.items() if held.get(p, 0) < n}
    excess = {p: n for p, n in held.items() if n > wanted.get(p, 0)}
    reported = {
        line["product_id"]
        for body in told
        if body["type"].endswith(".cart_shortage") and newest is not None and body["caused_by"] == newest.id
        for line in body["lines"]
    }
    if excess or not missing.keys() <= reported:
        yield Violation("cart", cart_id, f"holds {held}, its newest snapshot asks for {dict(wanted)}")


def _newest_snapshot(history: _History, cart_id: str) -> Event | None:
    """Return the snapshot that must have won: the newest by version, else time, since the cart's last order."""
    converted = history.converted.get(cart_id)
    snapshots = history.carts[cart_id]
    fresh = [
        event
        for event in snapshots
        if (converted is None or event.at > converted) and not _was_outdated(history, event, snapshots)
    ]
    return max(fresh, key=lambda event: (event.data.get("version") or 0, event.at), default=None)


def _was_outdated(history: _History, event: Event, snapshots: list[Event]) -> bool:
    """Say whether a snapshot was refused for one with a newer version, which an order may have taken over since."""
    version = event.data.get("version")
    return history.observed.refused.get(event.id) == "stale_version" and any(
        other is not event and version is not None and (other.data.get("version") or 0) >= version
        for other in snapshots
    )


# --- edges --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Change:
    """One event's change of one product: the stock it left, a new threshold, and who may have caused it.

    With `may_join`, it may have been one step with the change before it: a refund that had waited is judged together
    with the event it waited for, and the edge on the net of both.
    """

    on_hand: int
    reserved: int
    threshold: int | None
    causes: frozenset[str]
    may_join: bool = False


@dataclass(frozen=True)
class _Place:
    """How far a walk through changes and alerts has come."""

    changes: int
    alerts: int
    free: frozenset[int]
    threshold: int
    told: str


def _edges(history: _History, product_id: str) -> Iterator[Violation]:
    """Walk through the product's changes and its alerts side by side; they must meet at both ends.

    A new threshold without new stock leaves no entry, so it may have come anywhere: every place is tried.
    """
    alerts = [body for body in history.told[product_id] if body.get("product_id") == product_id]
    changes, thresholds = _changes(history, product_id), _thresholds(history, product_id)
    if not changes:
        return
    start = _Place(0, 0, frozenset(), 0, "ok")
    frontier, reached = [start], {start}
    while frontier:
        place = frontier.pop()
        is_end = (place.changes, place.alerts) == (len(changes), len(alerts))
        if is_end and all(i in place.free or may_fail for i, (_, may_fail) in enumerate(thresholds)):
            return
        for following in _following(place, changes, thresholds, alerts):
            if following not in reached:
                reached.add(following)
                frontier.append(following)
    yield from _name_edges(product_id, changes, alerts)


def _following(
    place: _Place, changes: list[_Change], thresholds: list[tuple[_Change, bool]], alerts: list[Row]
) -> Iterator[_Place]:
    if place.changes < len(changes):
        change = changes[place.changes]
        yield from _taken(place, change, alerts, place.changes + 1, place.free)
        if place.changes + 1 < len(changes) and changes[place.changes + 1].may_join:
            threshold = place.threshold if change.threshold is None else change.threshold
            yield _Place(place.changes + 1, place.alerts, place.free, threshold, place.told)
    if place.changes:
        stock = changes[place.changes - 1]
        for index, (change, _) in enumerate(thresholds):
            if index not in place.free:
                moved = _Change(stock.on_hand, stock.reserved, change.threshold, change.causes)
                yield from _taken(place, moved, alerts, place.changes, place.free | {index})


def _taken(place: _Place, change: _Change, alerts: list[Row], changes: int, free: frozenset[int]) -> Iterator[_Place]:
    threshold = place.threshold if change.threshold is None else change.threshold
    now = status_of(change.on_hand - change.reserved, threshold)
    if not must_tell(place.told, now):
        yield _Place(changes, place.alerts, free, threshold, place.told)
    elif place.alerts < len(alerts):
        alert = alerts[place.alerts]
        severity = "ok" if alert["type"] == "inventory.stock_recovered" else alert["severity"]
        said = (severity, alert["on_hand"], alert["reserved"], alert["threshold"])
        cause = _cause(alert["caused_by"])
        if said == (now, change.on_hand, change.reserved, threshold) and cause in change.causes:
            yield _Place(changes, place.alerts + 1, free, threshold, now)


def _changes(history: _History, product_id: str) -> list[_Change]:
    """Read the product's changes off its ledger, one for each event; its birth is the first."""
    created = [event for event in history.products[product_id] if event.topic == "product.created"]
    if not created:
        return []
    rows = history.rows[product_id]
    births = [event for event in created if rows and event.id == rows[0]["event_id"]] or created[:1]
    threshold = births[0].data.get("low_stock_threshold")
    threshold = history.settings.default_threshold if threshold is None else threshold
    new_thresholds = {e.id: e.data.get("low_stock_threshold") for e in history.products[product_id]}
    changes: list[_Change] = []
    if not rows or rows[0]["event_id"] != births[0].id:
        changes.append(_Change(0, 0, threshold, frozenset({births[0].id})))
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
    """Return the new thresholds that left no entry, and whether each may have been refused."""
    with_entry = {row["event_id"] for row in history.rows[product_id]}
    return [
        (_Change(0, 0, event.data["low_stock_threshold"], frozenset({event.id})), event.id in history.observed.refused)
        for event in history.products[product_id]
        if event.topic == "inventory.adjustment"
        and event.data.get("low_stock_threshold") is not None
        and event.id not in with_entry
    ]


def _name_edges(product_id: str, changes: list[_Change], alerts: list[Row]) -> Iterator[Violation]:
    """Say which alerts are missing and which are too many, as far as the ledger alone tells."""
    threshold, told = 0, "ok"
    expected: Counter[tuple[str, int, int]] = Counter()
    for change in changes:
        threshold = threshold if change.threshold is None else change.threshold
        now = status_of(change.on_hand - change.reserved, threshold)
        if must_tell(told, now):
            told = now
            expected[now, change.on_hand, change.reserved] += 1
    seen = Counter(
        ("ok" if a["type"] == "inventory.stock_recovered" else a["severity"], a["on_hand"], a["reserved"])
        for a in alerts
    )
    for edge, count in (expected - seen).items():
        yield Violation("low_stock_missing", product_id, f"{count} alerts {edge} were never told")
    for edge, count in (seen - expected).items():
        yield Violation("low_stock_repeated", product_id, f"{count} alerts {edge} have no edge")
    if seen == expected:
        yield Violation("low_stock_order", product_id, "the alerts are right but their order or causes are not")
