"""Publications and when they are due: a queue ordered by time, with the repeats that real producers send."""

import heapq
import random
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

RECENT = 50
REPEATED_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Publication:
    """One record to publish.

    `expects` are the allowed dead letter reasons, empty for a valid event. `wild`: the bytes are mutated, so anything
    may come of it. `age`: how many seconds before its publication the event happened. `copy_of`: the number of the
    publication that it repeats.
    """

    topic: str
    key: str
    event_id: str
    data: Mapping[str, Any]
    age: float = 0.0
    spoil: str | None = None
    expects: tuple[str, ...] = ()
    wild: bool = False
    copy_of: int | None = None
    number: int = 0


@dataclass(order=True, slots=True)
class _Due:
    at: float
    number: int
    publication: Publication = field(compare=False)


class Schedule:
    """Publications by due time; `recent` are the last valid ones that were given out."""

    def __init__(self, draw: random.Random) -> None:
        self._random = draw
        self._due: list[_Due] = []
        self._numbers = 0
        self.recent: deque[Publication] = deque(maxlen=RECENT)

    def next_number(self) -> int:
        """Return a number that no publication has."""
        self._numbers += 1
        return self._numbers

    def put(self, at: float, topic: str, key: str, event_id: str, data: Mapping[str, Any], **more: Any) -> None:  # noqa: ANN401 - fields of a publication
        """Schedule a publication and sometimes, if it is valid, its repeat by the producer."""
        publication = Publication(topic, key, event_id, data, number=self.next_number(), **more)
        self._push(at, publication)
        if not (publication.expects or publication.wild) and self._random.random() < REPEATED_SHARE:
            repeat = Publication(topic, key, event_id, data, number=self.next_number(), copy_of=publication.number)
            self._push(at + self._random.choice((0.0, 0.3, 4.0)), repeat)

    def until(self, seconds: float) -> Iterator[Publication]:
        """Give what is due by `seconds`, in order."""
        while self._due and self._due[0].at <= seconds:
            yield self._given(heapq.heappop(self._due).publication)

    def burst(self) -> Iterator[Publication]:
        """Give what is due at 0, ahead of everything else."""
        burst = [due for due in self._due if due.at == 0.0]
        self._due = [due for due in self._due if due.at != 0.0]
        heapq.heapify(self._due)
        for due in sorted(burst):
            yield self._given(due.publication)

    def _push(self, at: float, publication: Publication) -> None:
        heapq.heappush(self._due, _Due(max(at, 0.0), publication.number, publication))

    def _given(self, publication: Publication) -> Publication:
        if not (publication.expects or publication.wild or publication.copy_of):
            self.recent.append(publication)
        return publication
