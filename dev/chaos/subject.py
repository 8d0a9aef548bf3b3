"""Everything in a run's evidence about one order, cart, product or event, for debugging."""

import json
from collections.abc import Iterator

from dev.chaos.evidence import Evidence
from dev.records import EVENT_TOPICS_OUT, TOPICS_IN, ConsumedRecord

MAX_LINES = 60


def describe_subject(evidence: Evidence, subject: str) -> list[str]:
    """Return the records and rows that name `subject`: topics first, then tables, at most MAX_LINES."""
    acked = {sent.position: sent.acked_at for sent in evidence.journal}
    lines: list[str] = []
    for topic in (*TOPICS_IN, *(f"{topic}.dlq" for topic in TOPICS_IN), *EVENT_TOPICS_OUT):
        lines += [
            f"{topic}[{record.partition}]@{record.offset} t={record.timestamp} acked={acked.get(record.position)}"
            f" {record.value!r}"
            for record in evidence.records[topic]
            if _names(record, subject)
        ]
    lines += [f"{table} {json.dumps(row)}" for table, row in _rows(evidence, subject)]
    return lines[:MAX_LINES]


def _names(record: ConsumedRecord, subject: str) -> bool:
    word = f'"{subject}"'.encode()
    return (
        record.key == subject.encode()
        or word in (record.value or b"")
        or subject.encode() in dict(record.headers).values()
    )


def _rows(evidence: Evidence, subject: str) -> Iterator[tuple[str, dict[str, str]]]:
    for table, rows in evidence.tables.items():
        for row in rows:
            values = {name: str(value) for name, value in row.items()}
            if table not in {"outbox", "dead_letters"} and (
                subject in values.values() or f":{subject}:" in values.get("event_id", "")
            ):
                yield table, values
