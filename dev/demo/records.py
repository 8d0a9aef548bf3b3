"""Encodes the shop's publications as Kafka records, in all three envelopes that the worker accepts.

Each of the shop's services has an envelope of its own: carts, products and stock as plain JSON, orders as structured
CloudEvents, payments as CloudEvents in binary mode.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from dev.demo.poison import BY_NAME
from dev.demo.shop import Publication
from dev.records import ProducedRecord

ORDERS: Final = "shop/orders"
PAYMENTS: Final = "shop/payments"
STOREFRONT: Final = "shop/storefront"

_STRUCTURED: Final = ("order.created", "order.cancelled")
_BINARY: Final = ("payment.succeeded", "payment.refunded")


def encode(publication: Publication, now: datetime) -> ProducedRecord:
    """Return the record for a publication at `now`."""
    time = (now - timedelta(seconds=publication.age)).isoformat()
    key = publication.key.encode()
    if publication.poison is not None:
        body = {"event_id": publication.event_id, "source": ORDERS, "occurred_at": time, **publication.data}
        value, headers = BY_NAME[publication.poison].spoil(body)
        return ProducedRecord(publication.topic, key, value, headers)
    if publication.topic in _STRUCTURED:
        event = {
            "specversion": "1.0",
            "id": publication.event_id,
            "source": ORDERS,
            "type": f"com.example.{publication.topic}",
            "time": time,
            "data": publication.data,
        }
        return ProducedRecord(publication.topic, key, _json(event), [("content-type", b"application/cloudevents+json")])
    if publication.topic in _BINARY:
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", publication.event_id.encode()),
            ("ce_source", PAYMENTS.encode()),
            ("ce_type", publication.topic.encode()),
            ("ce_time", time.encode()),
        ]
        return ProducedRecord(publication.topic, key, _json(publication.data), headers)
    body = {"event_id": publication.event_id, "source": STOREFRONT, "occurred_at": time, **publication.data}
    return ProducedRecord(publication.topic, key, _json(body), [])


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
