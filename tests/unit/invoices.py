"""Invoices as short rows, and what the events made of them say."""

import csv
import json
from collections.abc import Iterator
from typing import Any

from inventory.history import HistoryEvent, InvoiceLine, invoice_events, read_lines
from schemas.envelope import decode

HEADER = "InvoiceNo,StockCode,Quantity,InvoiceDate,CustomerID"
AT = "2010-12-01T08:26:00Z"


def lines(*rows: str, header: str = HEADER) -> Iterator[InvoiceLine]:
    """Read whole rows under a header."""
    return read_lines(enumerate(csv.reader([header, *rows]), start=1))


def events_of(*rows: str) -> list[HistoryEvent]:
    """Turn short rows, `invoice,product,quantity,customer`, into events."""
    full = []
    for row in rows:
        invoice, product, quantity, customer = row.split(",")
        full.append(f"{invoice},{product},{quantity},{AT},{customer}")
    return list(invoice_events(lines(*full)))


def topics_and_keys(events: list[HistoryEvent]) -> list[tuple[str, str]]:
    """Return the topic and key of each event."""
    return [(event.topic, event.key) for event in events]


def quantities(event: HistoryEvent) -> dict[str, int]:
    """Return the units of each product in an event."""
    return {item["product_id"]: item["quantity"] for item in event.data["items"]}


def decoded(event: HistoryEvent) -> Any:
    """Decode an event as the worker does."""
    headers = [("ce_id", event.id.encode()), ("ce_source", b"test"), ("ce_type", event.topic.encode())]
    return decode(event.topic, json.dumps(event.data).encode(), headers, 1_291_191_960_000)
