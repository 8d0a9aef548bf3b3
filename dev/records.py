"""Kafka records and topic names, for whatever publishes or reads them without the worker's code.

The topics are listed here a second time on purpose: the chaos checker and the acceptance tests must not take them from
the contracts that they judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

Headers = Sequence[tuple[str, bytes | None]]
Position = tuple[str, int, int]
"""Topic (without a prefix), partition and offset."""

TOPICS_IN = (
    "cart.updated",
    "order.created",
    "payment.succeeded",
    "order.cancelled",
    "payment.refunded",
    "product.created",
    "inventory.adjustment",
)
EVENT_TOPICS_OUT = (
    "inventory.low_stock",
    "inventory.stock_recovered",
    "inventory.back_in_stock",
    "inventory.reservations",
)


class ProducedRecord(NamedTuple):
    """A record for a producer; `topic` without a prefix, timestamp 0: the producer sets it."""

    topic: str
    key: bytes
    value: bytes | None
    headers: Headers
    timestamp_ms: int = 0


@dataclass(slots=True)
class ConsumedRecord:
    """A record as a consumer reads it; `topic` without a prefix, `timestamp` in milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def position(self) -> Position:
        """Where the record is stored."""
        return self.topic, self.partition, self.offset
