"""Builds the outbox row of an outcome: body, type, key and a deterministic id.

The id is derived from the cause, so the same outcome of the same cause has the same id in every worker and on every
retry, and consumers can drop repeats.
"""

from hashlib import sha1
from typing import assert_never
from uuid import UUID

import orjson

from domain.model import (
    BackInStock,
    Outcome,
    Product,
    ReferenceType,
    ReservationOutcome,
    StockAlert,
    StockStatus,
)
from schemas.topics import BACK_IN_STOCK, LOW_STOCK, RESERVATIONS, STOCK_RECOVERED
from storage.outbox import shard_of
from storage.save import OutboxRow

# The namespace of every id that the worker derives. Arbitrary, but fixed: another one would change all ids.
NAMESPACE = UUID("6d1f3c1e-5d2b-5f0a-9c55-3f0f6a2b7e11")
_NAMESPACE_BYTES = NAMESPACE.bytes


def outbox_row(outcome: Outcome) -> OutboxRow:
    """Return the outbox row that publishes `outcome`."""
    match outcome:
        case ReservationOutcome():
            topic, key, type_, body = _reservation(outcome)
        case StockAlert():
            topic = STOCK_RECOVERED if outcome.severity is StockStatus.OK else LOW_STOCK
            topic, key, type_, body = _alert(topic, outcome.product, outcome.severity)
        case BackInStock():
            topic, key, type_, body = _alert(BACK_IN_STOCK, outcome.product, outcome.product.status)
        case _:
            assert_never(outcome)
    source, event_id, occurred_at, traceparent = outcome.cause
    identity = name_uuid(f"{type_}\x1f{key}\x1f{source}\x1f{event_id}")
    whole = {"event_id": identity, "type": type_, "occurred_at": occurred_at, "caused_by": event_id, **body}
    return OutboxRow(
        identity,
        topic,
        key,
        type_,
        orjson.dumps(whole, option=orjson.OPT_UTC_Z).decode(),
        None if traceparent is None else orjson.dumps({"traceparent": traceparent}).decode(),
        occurred_at,
        shard_of(key),
    )


def name_uuid(name: str) -> str:
    """Return `str(uuid.uuid5(NAMESPACE, name))` (RFC 9562, version 5); three times as fast."""
    digest = sha1(_NAMESPACE_BYTES + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def _alert(topic: str, product: Product, severity: StockStatus) -> tuple[str, str, str, dict[str, object]]:
    body: dict[str, object] = {
        "product_id": product.product_id,
        "available": product.available,
        "reserved": product.reserved,
        "on_hand": product.on_hand,
        "threshold": product.threshold,
        "severity": severity.value,
        "version": product.version,
    }
    return topic, product.product_id, topic, body


def _reservation(outcome: ReservationOutcome) -> tuple[str, str, str, dict[str, object]]:
    kind, reference_type, reference_id, user_id, lines, reason, shortages, _ = outcome
    body: dict[str, object] = {"order_id" if reference_type is ReferenceType.ORDER else "cart_id": reference_id}
    if user_id is not None:
        body["user_id"] = user_id
    if reason is None:
        body["lines"] = [{"product_id": product_id, "quantity": quantity} for product_id, quantity in lines.items()]
    else:
        body["reason"] = reason.value
        body["lines"] = [shortage._asdict() for shortage in shortages]
    return RESERVATIONS, reference_id, f"inventory.reservation.{kind.value}", body
