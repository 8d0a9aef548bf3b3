"""Check one product's alerts: they are exactly the edges of its ledger and its returns to stock."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from dev.oracle.observations import History, Row, Violation, cause_of
from dev.oracle.stock import is_edge, status_of


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


def check_alerts(history: History, product_id: str) -> Iterator[Violation]:
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
        cause_of(alert["caused_by"]) in change.causes
    )


def _severity(alert: Row) -> str:
    return "ok" if alert["type"] == "inventory.stock_recovered" else str(alert["severity"])


def _changes(history: History, product_id: str) -> list[_Change]:
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
        causes = frozenset({cause_of(row["event_id"])}) | history.facts.get(owner or "", frozenset())
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


def _thresholds(history: History, product_id: str) -> list[tuple[_Change, bool]]:
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
