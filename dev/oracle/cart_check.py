"""Check one cart: it holds what its newest snapshot asks for, or its shortage was published."""

from collections import Counter
from collections.abc import Iterator

from dev.oracle.events import Event
from dev.oracle.observations import History, Violation


def check_cart(history: History, cart_id: str) -> Iterator[Violation]:
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


def _newest_snapshot(history: History, cart_id: str) -> Event | None:
    """Return the snapshot that must be in effect: the newest by version, else time, since the cart's last order."""
    converted = history.converted.get(cart_id)
    snapshots = history.carts[cart_id]
    fresh = [
        event
        for event in snapshots
        if (converted is None or event.at > converted) and not _was_outdated(history, event, snapshots)
    ]
    return max(fresh, key=lambda event: (event.data.get("version") or 0, event.at), default=None)


def _was_outdated(history: History, event: Event, snapshots: list[Event]) -> bool:
    """Say whether a snapshot lost to one with a newer version, whose hold an order may have taken over since."""
    version = event.data.get("version")
    return history.observed.refused.get(event.id) == "stale_version" and any(
        other is not event and version is not None and (other.data.get("version") or 0) >= version
        for other in snapshots
    )
