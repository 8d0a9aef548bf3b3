"""Says whether what is there after a run is what was promised.

The promise: every event that Kafka acknowledged is applied exactly once, or suppressed as a duplicate, or parked with a
deadline, or dead-lettered with its original bytes. Shares no code with the worker: the rules come from `oracle`.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from typing_extensions import override

from dev.chaos.evidence import Evidence, Row, read_event
from dev.chaos.generator import Sent
from dev.oracle.history import Observed, Violation, check
from dev.oracle.shop import Settings
from dev.records import EVENT_TOPICS_OUT, TOPICS_IN, ConsumedRecord, Position

Identity = tuple[str, str]

# Where a violation is counted in the line; what is named nowhere is unexpected.
COUNTED_AS: Mapping[str, str] = {
    "lost": "lost",
    "double_applied": "double_applied",
    "oversold": "negative_stock",
    "ledger": "ledger_errors",
    "low_stock_missing": "low_stock_missing",
    "low_stock_repeated": "low_stock_repeated",
    "expired_though_paid": "expired_though_paid",
}
GOOD_MAY_DIE_OF = frozenset({"deadline_expired"})
OURS = ("__dlq.", "x-dlq-", "x-original-topic")


@dataclass
class Line:
    """The counts of one run, in the order in which they are printed."""

    attempted: int = 0
    acknowledged: int = 0
    applied: int = 0
    duplicates_suppressed: int = 0
    parked: int = 0
    dead_lettered: int = 0
    lost: int = 0
    double_applied: int = 0
    unexpected: int = 0
    negative_stock: int = 0
    ledger_errors: int = 0
    low_stock_missing: int = 0
    low_stock_repeated: int = 0
    expired_though_paid: int = 0

    @override
    def __str__(self) -> str:
        return " ".join(f"{name.name}={getattr(self, name.name)}" for name in fields(self))


@dataclass
class Finding:
    """The line and the violations behind its counts."""

    line: Line = field(default_factory=Line)
    violations: list[Violation] = field(default_factory=list)

    def add(self, violations: Iterable[Violation]) -> None:
        """Take violations into the list and the line."""
        for violation in violations:
            self.violations.append(violation)
            name = COUNTED_AS.get(violation.kind, "unexpected")
            setattr(self.line, name, getattr(self.line, name) + 1)


@dataclass
class _Account:
    """The evidence, sorted for looking up."""

    evidence: Evidence
    settings: Settings
    incoming: dict[Position, ConsumedRecord] = field(default_factory=dict)
    sent: dict[Position, Sent] = field(default_factory=dict)
    died: dict[Position, list[ConsumedRecord]] = field(default_factory=lambda: defaultdict(list))
    inbox: dict[Identity, Row] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    identities: set[Identity] = field(default_factory=set)

    def __post_init__(self) -> None:
        for topic in TOPICS_IN:
            self.incoming.update((record.position, record) for record in self.evidence.records[topic])
            for dead_letter in self.evidence.records[f"{topic}.dlq"]:
                self.died[_origin(dead_letter)].append(dead_letter)
        self.sent = {sent.position: sent for sent in self.evidence.journal if sent.position is not None}
        self.inbox = {(row["source"], row["event_id"]): row for row in self.evidence.tables["inbox"]}


def judge(evidence: Evidence, settings: Settings) -> Finding:
    """Hold the evidence against the promise."""
    account = _Account(evidence, settings)
    finding = Finding()
    finding.line.attempted = len(evidence.journal)
    finding.line.acknowledged = len(account.sent)
    finding.add(_missing_from_kafka(account))
    finding.add(_each_record(account, finding.line))
    finding.add(_inbox(account))
    finding.add(_dead_letters(account))
    finding.add(_outgoing(account))
    finding.add(_stock(account))
    finding.add(_holds(account))
    finding.add(_entries(account))
    finding.add(_parked(account))
    finding.add(_paid_in_time(account))
    finding.add(check(account.events, _observed(account), settings))
    return finding


# --- what came in -------------------------------------------------------------------------------


def _missing_from_kafka(account: _Account) -> Iterator[Violation]:
    for position, sent in account.sent.items():
        if position not in account.incoming:
            yield Violation(
                "lost", sent.event_id, f"acknowledged at {position} and not in the topic: the broker lost it"
            )


def _each_record(account: _Account, line: Line) -> Iterator[Violation]:
    """Give each record in the topics exactly one fate, and collect the events that took effect."""
    for position, record in account.incoming.items():
        event, sent = read_event(record), account.sent.get(position)
        identity = None if event is None else (event["source"], event["id"])
        if position in account.died:
            line.dead_lettered += 1
            if event is not None and identity is not None and _reason(account.died[position][0]) in GOOD_MAY_DIE_OF:
                account.identities.add(identity)
                account.events.append(event)
            yield from _dead(account, position, record, sent)
            continue
        row = None if identity is None else account.inbox.get(identity)
        if row is None or identity is None or event is None:
            yield Violation("lost", _name(record, sent), f"{_where(record)} is in no inbox and no dead letter topic")
            continue
        if sent is not None and sent.expects:
            yield Violation("unexpected", sent.event_id, f"{_where(record)} must be dead, is {row['outcome']}")
        if identity in account.identities:
            line.duplicates_suppressed += 1
        elif row["outcome"] == "parked":
            line.parked += 1
        else:
            line.applied += 1
        account.identities.add(identity)
        if sent is None or not sent.wild:
            account.events.append(event)


def _dead(account: _Account, position: Position, record: ConsumedRecord, sent: Sent | None) -> Iterator[Violation]:
    """A record may only be dead for a reason that it gave; one that was sent unheard of by us may be bad."""
    if sent is None or sent.wild:
        return
    reasons = {_reason(dead_letter) for dead_letter in account.died[position]}
    allowed = set(sent.expects) or GOOD_MAY_DIE_OF
    if not reasons <= allowed:
        yield Violation("unexpected", sent.event_id, f"{_where(record)} died of {reasons}, allowed is {allowed}")


def _inbox(account: _Account) -> Iterator[Violation]:
    for identity, row in account.inbox.items():
        if identity not in account.identities:
            yield Violation("unexpected", row["event_id"], f"nobody published what the inbox has: {dict(row)}")


def _parked(account: _Account) -> Iterator[Violation]:
    """What waits in the inbox, in the table and in the orders is the same."""
    inbox = {identity for identity, row in account.inbox.items() if row["outcome"] == "parked"}
    table = {(row["source"], row["event_id"]) for row in account.evidence.tables["parked"]}
    orders = {
        (fact["source"], fact["event_id"])
        for row in account.evidence.tables["orders"]
        for fact in json.loads(row["waiting"] or "[]")
    }
    for identity in (inbox | table | orders) - (inbox & table & orders):
        places = {"inbox": identity in inbox, "parked_events": identity in table, "order": identity in orders}
        yield Violation("parked", identity[1], f"waits here and not there: {places}")


# --- dead letters -------------------------------------------------------------------------------


def _dead_letters(account: _Account) -> Iterator[Violation]:
    """Each dead letter is in its topic, byte for byte as it came, and for the reason that the table has."""
    rows = {row["id"]: row for row in account.evidence.tables["dead_letters"]}
    published: set[str] = set()
    for position, dead_letters in account.died.items():
        original = account.incoming.get(position)
        for dead_letter in dead_letters:
            id_ = _header(dead_letter, "x-dlq-id")
            published.add(id_)
            kept = rows.get(id_)
            if original is None:
                yield Violation("unexpected", id_, f"a dead letter of {position}, where no record is")
            elif difference := _difference(original, dead_letter):
                yield Violation("dead_letter", id_, f"the dead letter of {_where(original)} differs in {difference}")
            if kept is None:
                yield Violation("unexpected", id_, f"a dead letter of {position} that the table does not have")
            elif (kept["reason"], kept["topic"], kept["partition"], kept["offset"]) != (
                _reason(dead_letter),
                *position,
            ):
                yield Violation(
                    "dead_letter", id_, f"topic and table disagree: {position} {_reason(dead_letter)}, {kept}"
                )
    for id_, row in rows.items():
        original = account.incoming.get((row["topic"], row["partition"], row["offset"]))
        if id_ not in published and row["publish_error"] is None:
            yield Violation("dead_letter", id_, f"never published: {row['topic']} {row['partition']} {row['offset']}")
        if original is None or (original.key, original.value) != (row["key"], row["value"]):
            yield Violation("dead_letter", id_, "the table does not have the bytes of the record")


def _difference(original: ConsumedRecord, dead_letter: ConsumedRecord) -> str:
    """Name what of a dead letter is not as it came; empty when all is."""
    headers = [pair for pair in original.headers if not pair[0].lower().startswith(OURS)]
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
    """Return the last header of that name: ours stand behind the record's own."""
    return next((value or b"" for key, value in reversed(record.headers) if key == name), b"").decode()


# --- what went out ------------------------------------------------------------------------------


def _outgoing(account: _Account) -> Iterator[Violation]:
    """What was committed was published, nothing else was, and each key's events came in the order of their commits."""
    committed = {row["id"]: row for row in account.evidence.tables["outbox"]}
    first: dict[str, ConsumedRecord] = {}
    for topic in EVENT_TOPICS_OUT:
        for record in account.evidence.records[topic]:
            first.setdefault(_header(record, "ce_id"), record)
    for id_, record in first.items():
        row = committed.get(id_)
        if row is None:
            yield Violation("unexpected", id_, f"published on {record.topic}, never committed: {record.value!r}")
        elif json.loads(record.value or b"{}") != json.loads(row["payload"]):
            yield Violation("unexpected", id_, f"published otherwise than committed: {record.value!r}")
    for id_, row in committed.items():
        if id_ not in first:
            kind = "low_stock_missing" if row["topic"] == "inventory.low_stock" else "outcome_missing"
            yield Violation(kind, row["key"], f"committed and never published on {row['topic']}: {row['payload']}")
    yield from _order_of_keys(committed, first)


def _order_of_keys(committed: Mapping[str, Row], first: Mapping[str, ConsumedRecord]) -> Iterator[Violation]:
    """Each key's events were published first in the order in which they were committed."""
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
            yield Violation("outcome_order", owner[1], f"events of {owner} were not published in their order")


def _observed(account: _Account) -> Observed:
    """Return the oracle's input: outgoing events as consumers see them, deduplicated by id."""
    tables = account.evidence.tables
    outgoing: dict[str, dict[str, Any]] = {}
    for topic in EVENT_TOPICS_OUT:
        for record in account.evidence.records[topic]:
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
            for position, dead_letters in account.died.items()
            if any(_reason(dead_letter) in GOOD_MAY_DIE_OF for dead_letter in dead_letters)
            and position in account.incoming
            and (event := read_event(account.incoming[position])) is not None
            and event["id"] not in applied
        },
    )


# --- the books ----------------------------------------------------------------------------------


def _stock(account: _Account) -> Iterator[Violation]:
    """No row of the stock is impossible, and its derived columns are right."""
    for row in account.evidence.tables["inventory"]:
        on_hand, reserved, threshold = row["on_hand"], row["reserved"], row["low_stock_threshold"]
        free = on_hand - reserved
        status = "out" if free <= 0 else "low" if free <= threshold else "ok"
        if not 0 <= reserved <= on_hand:
            yield Violation("oversold", row["product_id"], f"{dict(row)}")
        if (row["available"], row["stock_status"]) != (free, status):
            yield Violation("ledger", row["product_id"], f"must have {free} available and be {status}: {dict(row)}")


def _holds(account: _Account) -> Iterator[Violation]:
    """What is reserved is what open orders and carts hold, and an order's lines are what its entries say."""
    tables = account.evidence.tables
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
            _, _, reserved, released, deducted, restocked, _ = line
            holds = reserved - released - deducted if row["status"] == "reserved" else 0
            held[product_id] += holds
            sums = moved.get(("ORDER", row["order_id"], product_id), [0, 0])
            if sums != [restocked - deducted, holds]:
                yield Violation("ledger", row["order_id"], f"line {product_id} is {line}, its entries sum to {sums}")
    for row in tables["inventory"]:
        if held[row["product_id"]] != row["reserved"]:
            yield Violation(
                "ledger", row["product_id"], f"{held[row['product_id']]} are held, the stock is {dict(row)}"
            )


def _entries(account: _Account) -> Iterator[Violation]:
    """No event moved the same product twice for the same owner in the same way."""
    key: Callable[[Row], tuple[str, ...]] = lambda row: (  # noqa: E731 - read once, below
        row["event_id"],
        row["product_id"],
        row["type"],
        row["reference_type"],
        row["reference_id"],
    )
    for entry, count in Counter(map(key, account.evidence.tables["ledger"])).items():
        if count > 1:
            yield Violation("double_applied", entry[0], f"{count} entries of {entry}")


def _paid_in_time(account: _Account) -> Iterator[Violation]:
    """No hold expired although Kafka had its payment before its deadline, however long the workers were away."""
    created: dict[str, datetime] = {}
    paid: dict[str, float] = {}
    acked = {sent.event_id: sent.acked_at for sent in reversed(account.evidence.journal) if sent.acked_at is not None}
    died = {row["event_id"] for row in account.evidence.tables["inbox"]}
    for event in account.events:
        if event["topic"] == "order.created":
            created.setdefault(event["data"]["order_id"], datetime.fromisoformat(event["occurred_at"]))
        elif event["topic"] == "payment.succeeded" and event["id"] in acked and event["id"] in died:
            paid.setdefault(event["data"]["order_id"], acked[event["id"]])
    for row in account.evidence.tables["ledger"]:
        order_id = row["reference_id"]
        if row["type"] == "RELEASE" and row["event_id"].startswith(f"expired:order:{order_id}:") and order_id in paid:
            deadline = (created[order_id] + account.settings.order_ttl).timestamp()
            if paid[order_id] < deadline:
                early = deadline - paid[order_id]
                yield Violation(
                    "expired_though_paid", order_id, f"paid {early:.3f} s before its deadline, dropped by {dict(row)}"
                )


def _where(record: ConsumedRecord) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"


def _name(record: ConsumedRecord, sent: Sent | None) -> str:
    return (record.key or b"").decode("utf-8", "replace") if sent is None else sent.event_id
