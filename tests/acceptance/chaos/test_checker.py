"""The checker goes red: each test falsifies one thing in the evidence of a good run."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from dev.chaos.checker import judge
from dev.chaos.evidence import Evidence, read_event
from dev.chaos.findings import Finding
from dev.chaos.run import RULES, Result
from dev.records import ConsumedRecord

Change = Callable[[Evidence], Evidence]


def _tables(evidence: Evidence, **tables: list[dict[str, Any]]) -> Evidence:
    return replace(evidence, tables={**evidence.tables, **tables})


def _rows(evidence: Evidence, table: str) -> list[dict[str, Any]]:
    return [dict(row) for row in evidence.tables[table]]


def _without(evidence: Evidence, topic: str, id_: str) -> Evidence:
    """Remove every copy of an outgoing event from its topic."""
    kept = [record for record in evidence.records[topic] if dict(record.headers).get("ce_id") != id_.encode()]
    return replace(evidence, records={**evidence.records, topic: kept})


def _last_entry(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the newest entry of a product; of which kind does not matter, and every run has one."""
    return list({row["product_id"]: row for row in rows}.values())[-1]


def lose_an_event(evidence: Evidence) -> Evidence:
    """An adjustment is missing from the inbox, as if it had never been applied."""
    rows = _rows(evidence, "inbox")
    lost = next(row for row in rows if row["event_id"].startswith("a") and row["outcome"] == "applied")
    return _tables(evidence, inbox=[row for row in rows if row is not lost])


def lose_an_effect(evidence: Evidence) -> Evidence:
    """An adjustment in the inbox has no effect: its ledger entry is gone and the sequence is closed up."""
    rows = _rows(evidence, "ledger")
    gone = next(row for row in rows if row["type"] == "ADJUST")
    change = gone["on_hand_after"] - gone["on_hand_before"]
    kept = []
    for row in rows:
        if row["product_id"] == gone["product_id"] and row["sequence"] > gone["sequence"]:
            row["sequence"] -= 1
            row["on_hand_before"] -= change
            row["on_hand_after"] -= change
        if row is not gone:
            kept.append(row)
    return _tables(evidence, ledger=kept)


def apply_twice(evidence: Evidence) -> Evidence:
    """An adjustment is in the ledger twice, and the stock agrees."""
    rows = _rows(evidence, "ledger")
    newest = {row["product_id"]: row for row in rows}
    again = next(row for row in rows if row["type"] == "ADJUST" and row["on_hand_after"] > row["on_hand_before"])
    last = newest[again["product_id"]]
    twin = {
        **again,
        "sequence": last["sequence"] + 1,
        "on_hand_before": last["on_hand_after"],
        "on_hand_after": last["on_hand_after"] + again["quantity"],
        "reserved_before": last["reserved_after"],
        "reserved_after": last["reserved_after"],
    }
    stock = _rows(evidence, "inventory")
    for row in stock:
        if row["product_id"] == again["product_id"]:
            row["on_hand"] += again["quantity"]
            row["available"] += again["quantity"]
    return _tables(evidence, ledger=[*rows, twin], inventory=stock)


def oversell(evidence: Evidence) -> Evidence:
    """A product has more reserved than on hand."""
    stock = _rows(evidence, "inventory")
    stock[0]["reserved"] = stock[0]["on_hand"] + 1
    return _tables(evidence, inventory=stock)


def break_the_ledger(evidence: Evidence) -> Evidence:
    """An entry does not begin where the one before it ended."""
    rows = _rows(evidence, "ledger")
    rows[len(rows) // 2]["reserved_before"] += 1
    return _tables(evidence, ledger=rows)


def drop_an_entry(evidence: Evidence) -> Evidence:
    """The newest entry of a product is missing."""
    rows = _rows(evidence, "ledger")
    gone = _last_entry(rows)
    return _tables(evidence, ledger=[row for row in rows if row is not gone])


def miss_an_alert(evidence: Evidence) -> Evidence:
    """A low stock alert reached nobody."""
    record = evidence.records["inventory.low_stock"][0]
    return _without(evidence, "inventory.low_stock", dict(record.headers)["ce_id"].decode())  # type: ignore[union-attr]


def repeat_an_alert(evidence: Evidence) -> Evidence:
    """An alert is published twice, the second time under another id and without an edge."""
    record = evidence.records["inventory.low_stock"][0]
    body = {**json.loads(record.value or b""), "event_id": "another", "version": 10**6}
    headers = [(name, b"another" if name == "ce_id" else value) for name, value in record.headers]
    twin = replace(record, offset=10**6, value=json.dumps(body).encode(), headers=headers)
    records = [*evidence.records["inventory.low_stock"], twin]
    return replace(evidence, records={**evidence.records, "inventory.low_stock": records})


def miss_an_outcome(evidence: Evidence) -> Evidence:
    """A reservation's outcome was never published."""
    record = evidence.records["inventory.reservations"][0]
    return _without(evidence, "inventory.reservations", dict(record.headers)["ce_id"].decode())  # type: ignore[union-attr]


def swap_outcomes(evidence: Evidence) -> Evidence:
    """Two outcomes of one order were published in the wrong order."""
    records = list(evidence.records["inventory.reservations"])
    first: dict[bytes | None, int] = {}
    for index, record in enumerate(records):
        before = first.setdefault(record.key, index)
        if dict(records[before].headers)["ce_id"] != dict(record.headers)["ce_id"]:
            records[before], records[index] = record, records[before]
            return replace(evidence, records={**evidence.records, "inventory.reservations": records})
    raise AssertionError("no order with two outcomes in this run")


def contradict_an_outcome(evidence: Evidence) -> Evidence:
    """A rejected order is stored as reserved."""
    orders = _rows(evidence, "orders")
    next(row for row in orders if row["status"] == "rejected")["status"] = "reserved"
    return _tables(evidence, orders=orders)


def _first_dead_letter(evidence: Evidence) -> tuple[str, ConsumedRecord]:
    return next((topic, found[0]) for topic, found in evidence.records.items() if topic.endswith(".dlq") and found)


def change_a_dead_letter(evidence: Evidence) -> Evidence:
    """A dead letter's value lacks a byte."""
    topic, dead_letter = _first_dead_letter(evidence)
    records = [replace(dead_letter, value=(dead_letter.value or b"x")[:-1]), *evidence.records[topic][1:]]
    return replace(evidence, records={**evidence.records, topic: records})


def lose_a_dead_letter(evidence: Evidence) -> Evidence:
    """A poison record is in no dead letter topic."""
    topic, dead_letter = _first_dead_letter(evidence)
    gone = dict(dead_letter.headers)["x-dlq-id"]
    kept = [record for record in evidence.records[topic] if dict(record.headers)["x-dlq-id"] != gone]
    return replace(evidence, records={**evidence.records, topic: kept})


def dead_letter_a_valid_event(evidence: Evidence) -> Evidence:
    """A valid event was dead-lettered."""
    journal = [sent._replace(expects=()) if sent.expects == ("schema_invalid",) else sent for sent in evidence.journal]
    return replace(evidence, journal=journal)


def invent_an_event(evidence: Evidence) -> Evidence:
    """The inbox has an event that nobody published."""
    row = {"event_id": "made-up", "source": "nobody", "outcome": "applied", "reason": None}
    return _tables(evidence, inbox=[*_rows(evidence, "inbox"), row])


def forget_a_parked_event(evidence: Evidence) -> Evidence:
    """An event is parked by the inbox but in no other table."""
    inbox = _rows(evidence, "inbox")
    next(row for row in inbox if row["event_id"].endswith("-paid"))["outcome"] = "parked"
    return _tables(evidence, inbox=inbox)


def expire_a_paid_order(evidence: Evidence) -> Evidence:
    """A hold expired although its payment was in Kafka in time.

    A payment that was sent while the broker was away may never have been acknowledged: such an order proves nothing.
    """
    paid = {
        sent.event_id.removesuffix("-paid"): sent.acked_at
        for sent in evidence.journal
        if sent.event_id.endswith("-paid") and sent.acked_at is not None
    }
    applied = {row["event_id"] for row in evidence.tables["inbox"]}
    created = {
        event["data"]["order_id"]: datetime.fromisoformat(event["occurred_at"])
        for record in evidence.records["order.created"]
        if (event := read_event(record)) is not None and event["id"] in applied
    }
    ledger = _rows(evidence, "ledger")
    for row in ledger:
        order_id = row["reference_id"]
        in_time = order_id in paid and order_id in created and paid[order_id] < created[order_id].timestamp() + 5
        if row["type"] == "OUT" and in_time:
            row["type"], row["event_id"] = "RELEASE", f"expired:order:{order_id}:2026-01-01T00:00:00+00:00"
            return _tables(evidence, ledger=ledger)
    raise AssertionError("no order of this run was paid in time")


def forget_an_acknowledgement(evidence: Evidence) -> Evidence:
    """The broker acknowledged a record that is not in its topic."""
    records = evidence.records["cart.updated"][1:]
    return replace(evidence, records={**evidence.records, "cart.updated": records})


FALSIFICATIONS: dict[Change, str] = {
    lose_an_event: "lost",
    lose_an_effect: "lost",
    apply_twice: "double_applied",
    oversell: "oversold",
    break_the_ledger: "ledger",
    drop_an_entry: "ledger",
    miss_an_alert: "low_stock_missing",
    repeat_an_alert: "low_stock_repeated",
    miss_an_outcome: "outcome_missing",
    swap_outcomes: "outcome_order",
    contradict_an_outcome: "order",
    change_a_dead_letter: "dead_letter",
    lose_a_dead_letter: "lost",
    dead_letter_a_valid_event: "unexpected",
    invent_an_event: "unexpected",
    forget_a_parked_event: "parked",
    expire_a_paid_order: "expired_though_paid",
    forget_an_acknowledgement: "lost",
}


@pytest.mark.parametrize(
    ("change", "kind"), FALSIFICATIONS.items(), ids=lambda value: getattr(value, "__name__", value)
)
def test_each_falsification_is_found(result: Result, change: Change, kind: str) -> None:
    """The checker reports the expected kind of violation, and the line counts it."""
    finding = judge(change(result.evidence), RULES)
    assert kind in {violation.kind for violation in finding.violations}
    assert _red(finding) > 0


def _red(finding: Finding) -> int:
    line = finding.line
    return sum(
        (
            line.lost,
            line.double_applied,
            line.unexpected,
            line.negative_stock,
            line.ledger_errors,
            line.low_stock_missing,
            line.low_stock_repeated,
            line.expired_though_paid,
        )
    )
