"""Check one product's ledger: it replays without holes, and holds each creation and adjustment once."""

from collections import defaultdict
from collections.abc import Iterator

from dev.oracle.events import Event
from dev.oracle.observations import History, Row, Violation

CHANGES = {
    "IN": {(1, 0)},
    "OUT": {(-1, -1), (-1, 0)},
    "RESERVE": {(0, 1)},
    "RELEASE": {(0, -1)},
    "ADJUST": {(1, 0), (-1, 0)},
}


def check_ledger(history: History, product_id: str) -> Iterator[Violation]:
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


def check_adjustments(history: History, product_id: str) -> Iterator[Violation]:
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


def _may_be_silent(history: History, product_id: str, event: Event) -> bool:
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
