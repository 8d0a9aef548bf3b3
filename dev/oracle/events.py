"""Events as published: mappings of topic, id, source, occurred_at and data, read without the worker's contracts."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

PublishedEvent = Mapping[str, Any]


@dataclass(frozen=True)
class Event:
    """One event, its lines summed by product; `lines` is None where the event names no lines."""

    topic: str
    source: str
    id: str
    at: datetime
    data: Mapping[str, Any] = field(repr=False)
    lines: Mapping[str, int] | None
    published: PublishedEvent = field(repr=False)

    def __deepcopy__(self, memo: object) -> "Event":
        """Copies of a shop share their events, which are immutable."""
        return self

    @property
    def identity(self) -> tuple[str, str]:
        """Events with the same identity are repeats of one event."""
        return (self.source, self.id)


def read(published: PublishedEvent) -> Event:
    """Read a published event; a missing source is the topic's name, repeated products are summed."""
    at = published["occurred_at"]
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    data = published["data"]
    lines: Counter[str] | None = None
    if data.get("items") is not None:
        lines = Counter()
        for item in data["items"]:
            lines[item["product_id"]] += item["quantity"]
    topic = published["topic"]
    return Event(topic, published.get("source") or topic, published["id"], at, data, lines, published)
