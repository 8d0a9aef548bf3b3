"""Decides from the evidence of a run whether the worker kept its promise.

The promise: every event that Kafka acknowledged is applied exactly once, or suppressed as a duplicate, or parked with a
deadline, or dead-lettered with its original bytes. Shares no code with the worker: the rules come from `dev.oracle`.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dev.chaos.evidence import Evidence, Row, read_event
from dev.chaos.findings import Finding, Line
from dev.chaos.generator import Sent
from dev.oracle.history import check
from dev.oracle.observations import Observed, Violation
from dev.oracle.settings import Settings
from dev.records import EVENT_TOPICS_OUT, TOPICS_IN, ConsumedRecord, Position

Identity = tuple[str, str]

REASONS_FOR_VALID_EVENTS = frozenset({"deadline_expired"})
ADDED_HEADERS = ("__dlq.", "x-dlq-", "x-original-topic")


@dataclass
class _Index:
    """The evidence, indexed for look-ups; `events` are those that took effect."""

    evidence: Evidence
    settings: Settings
    incoming: dict[Position, ConsumedRecord] = field(default_factory=dict)
    sent: dict[Position, Sent] = field(default_factory=dict)
    dead_letters: dict[Position, list[ConsumedRecord]] = field(default_factory=lambda: defaultdict(list))
    inbox: dict[Identity, Row] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    identities: set[Identity] = field(default_factory=set)

    def __post_init__(self) -> None:
        for topic in TOPICS_IN:
            self.incoming.update((record.position, record) for record in self.evidence.records[topic])
            for dead_letter in self.evidence.records[f"{topic}.dlq"]:
                self.dead_letters[_origin(dead_letter)].append(dead_letter)
        self.sent = {sent.position: sent for sent in self.evidence.journal if sent.position is not None}
        self.inbox = {(row["source"], row["event_id"]): row for row in self.evidence.tables["inbox"]}


def judge(evidence: Evidence, settings: Settings) -> Finding:
    """Check the evidence against the promise."""
    index = _Index(evidence, settings)
    finding = Finding()
    finding.line.attempted = len(evidence.journal)
    finding.line.acknowledged = len(index.sent)
    finding.add(_missing_from_kafka(index))
    finding.add(_each_record(index, finding.line))
    finding.add(_inbox(index))
    finding.add(_dead_letters(index))
    finding.add(_outgoing(index))
    finding.add(_stock(index))
    finding.add(_holds(index))
    finding.add(_entries(index))
    finding.add(_parked(index))
    finding.add(_paid_in_time(index))
    finding.add(check(index.events, _observed(index), settings))
    return finding


# --- incoming records ---------------------------------------------------------------------------


def _missing_from_kafka(index: _Index) -> Iterator[Violation]:
    for position, sent in index.sent.items():
        if position not in index.incoming:
            yield Violation(
                "lost", sent.event_id, f"acknowledged at {position} but missing from the topic: the broker lost it"
            )


def _each_record(index: _Index, line: Line) -> Iterator[Violation]:
    """Give each record exactly one disposition, and collect the events that took effect."""
    for position, record in index.incoming.items():
        event, sent = read_event(record), index.sent.get(position)
        identity = None if event is None else (event["source"], event["id"])
        if position in index.dead_letters:
            line.dead_lettered += 1
            if (
                event is not None
                and identity is not None
                and _reason(index.dead_letters[position][0]) in REASONS_FOR_VALID_EVENTS
            ):
                index.identities.add(identity)
                index.events.append(event)
            yield from _dead(index, position, record, sent)
            continue
        row = None if identity is None else index.inbox.get(identity)
        if row is None or identity is None or event is None:
            yield Violation("lost", _name(record, sent), f"{_where(record)} is neither in the inbox nor dead-lettered")
            continue
        if sent is not None and sent.expects:
            yield Violation("unexpected", sent.event_id, f"{_where(record)} must be dead, but is {row['outcome']}")
        if identity in index.identities:
            line.duplicates_suppressed += 1
        elif row["outcome"] == "parked":
            line.parked += 1
        else:
            line.applied += 1
        index.identities.add(identity)
        if sent is None or not sent.wild:
            index.events.append(event)


def _dead(index: _Index, position: Position, record: ConsumedRecord, sent: Sent | None) -> Iterator[Violation]:
    """A dead letter needs an expected reason; mutated records and those missing from the journal may have any."""
    if sent is None or sent.wild:
        return
    reasons = {_reason(dead_letter) for dead_letter in index.dead_letters[position]}
    allowed = set(sent.expects) or REASONS_FOR_VALID_EVENTS
    if not reasons <= allowed:
        yield Violation("unexpected", sent.event_id, f"{_where(record)} dead-lettered as {reasons}, allowed: {allowed}")


def _inbox(index: _Index) -> Iterator[Violation]:
    for identity, row in index.inbox.items():
        if identity not in index.identities:
            yield Violation("unexpected", row["event_id"], f"in the inbox but never published: {dict(row)}")


def _parked(index: _Index) -> Iterator[Violation]:
    """The inbox, `parked_events` and the orders agree on which events are parked."""
    inbox = {identity for identity, row in index.inbox.items() if row["outcome"] == "parked"}
    table = {(row["source"], row["event_id"]) for row in index.evidence.tables["parked"]}
    orders = {
        (fact["source"], fact["event_id"])
        for row in index.evidence.tables["orders"]
        for fact in json.loads(row["waiting"] or "[]")
    }
    for identity in (inbox | table | orders) - (inbox & table & orders):
        places = {"inbox": identity in inbox, "parked_events": identity in table, "order": identity in orders}
        yield Violation("parked", identity[1], f"is parked in some tables only: {places}")


# --- dead letters -------------------------------------------------------------------------------


def _dead_letters(index: _Index) -> Iterator[Violation]:
    """Each dead letter is in its topic with the original bytes and the reason that the table has."""
    rows = {row["id"]: row for row in index.evidence.tables["dead_letters"]}
    published: set[str] = set()
    for position, dead_letters in index.dead_letters.items():
        original = index.incoming.get(position)
        for dead_letter in dead_letters:
            id_ = _header(dead_letter, "x-dlq-id")
            published.add(id_)
            kept = rows.get(id_)
            if original is None:
                yield Violation("unexpected", id_, f"a dead letter of {position}, where there is no record")
            elif difference := _difference(original, dead_letter):
                yield Violation("dead_letter", id_, f"the dead letter of {_where(original)} differs in {difference}")
            if kept is None:
                yield Violation("unexpected", id_, f"a dead letter of {position} that is not in the table")
            elif (kept["reason"], kept["topic"], kept["partition"], kept["offset"]) != (
                _reason(dead_letter),
                *position,
            ):
                yield Violation(
                    "dead_letter", id_, f"topic and table disagree: {position} {_reason(dead_letter)}, {kept}"
                )
    for id_, row in rows.items():
        original = index.incoming.get((row["topic"], row["partition"], row["offset"]))
        if id_ not in published and row["publish_error"] is None:
            yield Violation("dead_letter", id_, f"never published: {row['topic']} {row['partition']} {row['offset']}")
        if original is None or (original.key, original.value) != (row["key"], row["value"]):
            yield Violation("dead_letter", id_, "the table does not have the record's bytes")


def _difference(original: ConsumedRecord, dead_letter: ConsumedRecord) -> str:
    """Name the parts of a dead letter that differ from the original record; empty if none does."""
    headers = [pair for pair in original.headers if not pair[0].lower().startswith(ADDED_HEADERS)]
    checks = {
        "key": original.key == dead_letter.key,
        "value": original.value == dead_letter.value,
        "timestamp": original.timestamp == dead_letter.timestamp,
        "headers": headers == list(dead_letter.headers[: len(headers)]),
    }
    return ", ".join(name for name, same in checks.items() if not same)


def _origin(dead_letter: ConsumedRecord) -> Position:
    topic = dead_letter.topic.removesuffix(".dlq")
    return topic, int(_header(dead_letter, "__dlq.errors.partition")), int(_header(dead_letter, "__dlq.errors.offset"))


def _reason(dead_letter: ConsumedRecord) -> str:
    return _header(dead_letter, "x-dlq-reason")


def _header(record: ConsumedRecord, name: str) -> str:
    """Return the last header of that name: the worker appends its own to the record's."""
    return next((value or b"" for key, value in reversed(record.headers) if key == name), b"").decode()


# --- outgoing events ----------------------------------------------------------------------------


def _outgoing(index: _Index) -> Iterator[Violation]:
    """Every committed event was published, nothing else was, and each key's events in commit order."""
    committed = {row["id"]: row for row in index.evidence.tables["outbox"]}
    first: dict[str, ConsumedRecord] = {}
    for topic in EVENT_TOPICS_OUT:
        for record in index.evidence.records[topic]:
            first.setdefault(_header(record, "ce_id"), record)
    for id_, record in first.items():
        row = committed.get(id_)
        if row is None:
            yield Violation("unexpected", id_, f"published on {record.topic}, never committed: {record.value!r}")
        elif json.loads(record.value or b"{}") != json.loads(row["payload"]):
            yield Violation("unexpected", id_, f"published with another payload than committed: {record.value!r}")
    for id_, row in committed.items():
        if id_ not in first:
            kind = "low_stock_missing" if row["topic"] == "inventory.low_stock" else "outcome_missing"
            yield Violation(kind, row["key"], f"committed and never published on {row['topic']}: {row['payload']}")
    yield from _order_of_keys(committed, first)


def _order_of_keys(committed: Mapping[str, Row], first: Mapping[str, ConsumedRecord]) -> Iterator[Violation]:
    """The first publication of each event follows the commit order of its key."""
    wanted: dict[tuple[str, str], list[str]] = defaultdict(list)
    for id_, row in committed.items():
        if id_ in first:
            wanted[row["topic"], row["key"]].append(id_)
    seen: dict[tuple[str, str], list[str]] = defaultdict(list)
    for id_, record in first.items():
        if id_ in committed:
            seen[record.topic, (record.key or b"").decode()].append(id_)
    for owner, ids in seen.items():
        if ids != wanted[owner]:
            yield Violation("outcome_order", owner[1], f"events of {owner} were not published in commit order")


def _observed(index: _Index) -> Observed:
    """Return the oracle's input: outgoing events as consumers see them, deduplicated by id."""
    tables = index.evidence.tables
    outgoing: dict[str, dict[str, Any]] = {}
    for topic in EVENT_TOPICS_OUT:
        for record in index.evidence.records[topic]:
            body = json.loads(record.value or b"{}")
            outgoing.setdefault(body["event_id"], body)
    applied = {row["event_id"] for row in tables["inbox"]}
    return Observed(
        stock={row["product_id"]: (row["on_hand"], row["reserved"]) for row in tables["inventory"]},
        ledger=tables["ledger"],
        orders={row["order_id"]: row["status"] for row in tables["orders"]},
        holds={row["cart_id"]: json.loads(row["held"]) for row in tables["carts"] if row["status"] == "active"},
        outgoing=sorted(outgoing.values(), key=lambda body: body.get("version", 0)),
        refused={row["event_id"]: row["reason"] for row in tables["inbox"] if row["outcome"] == "refused"},
        dead_lettered={
            str(event["id"])
            for position, dead_letters in index.dead_letters.items()
            if any(_reason(dead_letter) in REASONS_FOR_VALID_EVENTS for dead_letter in dead_letters)
            and position in index.incoming
            and (event := read_event(index.incoming[position])) is not None
            and event["id"] not in applied
        },
    )


# --- stock and ledger ---------------------------------------------------------------------------


def _stock(index: _Index) -> Iterator[Violation]:
    """Every row of `inventory` satisfies the invariants and has the right derived columns."""
    for row in index.evidence.tables["inventory"]:
        on_hand, reserved, threshold = row["on_hand"], row["reserved"], row["low_stock_threshold"]
        free = on_hand - reserved
        status = "out" if free <= 0 else "low" if free <= threshold else "ok"
        if not 0 <= reserved <= on_hand:
            yield Violation("oversold", row["product_id"], f"{dict(row)}")
        if (row["available"], row["stock_status"]) != (free, status):
            yield Violation("ledger", row["product_id"], f"must have {free} available and be {status}: {dict(row)}")


def _holds(index: _Index) -> Iterator[Violation]:
    """Reserved stock equals the holds of orders and carts, and an order's lines equal the sums of its entries."""
    tables = index.evidence.tables
    held: Counter[str] = Counter()
    moved: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in tables["ledger"]:
        sums = moved[row["reference_type"], row["reference_id"], row["product_id"]]
        sums[0] += row["on_hand_after"] - row["on_hand_before"]
        sums[1] += row["reserved_after"] - row["reserved_before"]
    for row in tables["carts"]:
        held.update(json.loads(row["held"]) if row["status"] == "active" else {})
    for row in tables["orders"]:
        for product_id, line in json.loads(row["lines"]).items():
            reserved, released, deducted, restocked = line[2:6]
            holds = reserved - released - deducted if row["status"] == "reserved" else 0
            held[product_id] += holds
            sums = moved.get(("ORDER", row["order_id"], product_id), [0, 0])
            if sums != [restocked - deducted, holds]:
                yield Violation("ledger", row["order_id"], f"line {product_id} is {line}, its entries sum to {sums}")
    for row in tables["inventory"]:
        if held[row["product_id"]] != row["reserved"]:
            yield Violation(
                "ledger", row["product_id"], f"{held[row['product_id']]} are held, but the stock is {dict(row)}"
            )


def _entries(index: _Index) -> Iterator[Violation]:
    """No event has two ledger entries of the same type, product and owner."""
    key: Callable[[Row], tuple[str, ...]] = lambda row: (  # noqa: E731 - read once, below
        row["event_id"],
        row["product_id"],
        row["type"],
        row["reference_type"],
        row["reference_id"],
    )
    for entry, count in Counter(map(key, index.evidence.tables["ledger"])).items():
        if count > 1:
            yield Violation("double_applied", entry[0], f"{count} entries of {entry}")


def _paid_in_time(index: _Index) -> Iterator[Violation]:
    """No hold expired whose payment Kafka acknowledged before the deadline, however long the workers were down."""
    created: dict[str, datetime] = {}
    paid: dict[str, float] = {}
    acked = {sent.event_id: sent.acked_at for sent in reversed(index.evidence.journal) if sent.acked_at is not None}
    in_inbox = {row["event_id"] for row in index.evidence.tables["inbox"]}
    for event in index.events:
        if event["topic"] == "order.created":
            created.setdefault(event["data"]["order_id"], datetime.fromisoformat(event["occurred_at"]))
        elif event["topic"] == "payment.succeeded" and event["id"] in acked and event["id"] in in_inbox:
            paid.setdefault(event["data"]["order_id"], acked[event["id"]])
    for row in index.evidence.tables["ledger"]:
        order_id = row["reference_id"]
        if row["type"] == "RELEASE" and row["event_id"].startswith(f"expired:order:{order_id}:") and order_id in paid:
            deadline = (created[order_id] + index.settings.order_ttl).timestamp()
            if paid[order_id] < deadline:
                early = deadline - paid[order_id]
                yield Violation(
                    "expired_though_paid", order_id, f"paid {early:.3f} s before its deadline, expired by {dict(row)}"
                )


def _where(record: ConsumedRecord) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"


def _name(record: ConsumedRecord, sent: Sent | None) -> str:
    return (record.key or b"").decode("utf-8", "replace") if sent is None else sent.event_id
