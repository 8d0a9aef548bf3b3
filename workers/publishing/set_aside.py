"""Topics and keys set aside because they cannot be published for now, so that all others go on.

A topic may be missing or forbidden, a partition may have no leader. Its events stay in the outbox in their order; the
poll leaves them out. One event of each is sent again after a delay that grows; once it is acknowledged, the poll
includes the topic or the keys again.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from storage.errors import in_words
from workers.publishing.producer import concerns_topic

logger = logging.getLogger(__name__)

# So many polls may fail as a whole before their events are set aside: the broker itself is probably away.
FAILED_POLLS = 3
FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 60.0
# Beyond this many keys the whole topic is set aside: the poll names each key that it leaves out.
MAX_KEYS = 1000


@dataclass(frozen=True, slots=True)
class Held:
    """Events that are set aside: of one topic, all or those of `keys`, none of them before `from_position`."""

    topic: str
    keys: frozenset[str] | None
    from_position: int


class SetAside:
    """The topics and keys that are set aside; all are tried again together, so that a slow answer costs once."""

    def __init__(self) -> None:
        self._held: list[Held] = []
        self._delay = FIRST_RETRY_SECONDS
        self._retry_at = 0.0
        self._failed_polls = 0

    @property
    def held(self) -> Sequence[Held]:
        """Everything that is set aside."""
        return tuple(self._held)

    @property
    def topics(self) -> list[str]:
        """The topics that are set aside as a whole."""
        return [held.topic for held in self._held if held.keys is None]

    @property
    def keys(self) -> list[tuple[str, str]]:
        """The (topic, key) pairs that are set aside."""
        return [(held.topic, key) for held in self._held for key in sorted(held.keys or ())]

    def note_success(self) -> None:
        """Note that something was published: the broker is there."""
        self._failed_polls = 0

    def blames_events(self, errors: Iterable[BaseException | None], *, succeeded: bool) -> bool:
        """Note the errors of a poll, and say whether they are the events' fault and not that of the broker.

        They are where something else of the poll succeeded, and once FAILED_POLLS polls in a row failed as a whole. A
        topic that is missing says nothing about the broker.
        """
        if succeeded:
            self.note_success()
        elif any(not concerns_topic(error) for error in errors):
            self._failed_polls += 1
        return succeeded or self._failed_polls >= FAILED_POLLS

    def add(self, topic: str, keys: Iterable[str] | None, from_position: int, error: BaseException) -> None:
        """Set aside a topic, or the `keys` of one; the next attempt is then soon, whatever else is set aside."""
        now = asyncio.get_running_loop().time()
        if not self._held:
            self._delay, self._retry_at = FIRST_RETRY_SECONDS, now + FIRST_RETRY_SECONDS
        self._retry_at = min(self._retry_at, now + FIRST_RETRY_SECONDS)
        of_topic = [held for held in self._held if held.topic == topic]
        chosen = None if keys is None else frozenset(keys)
        known = sum(len(held.keys or ()) for held in of_topic)
        if chosen is None or known + len(chosen) > MAX_KEYS:
            self._held = [held for held in self._held if held.topic != topic]
            chosen = None
            from_position = min([from_position, *(held.from_position for held in of_topic)])
        self._held.append(Held(topic, chosen, from_position))
        logger.error(
            "%s of %s cannot be published (%s) and are set aside; all others are published. "
            "They are tried again, at least every %.0f s%s",
            "All events" if chosen is None else f"The events of {len(chosen)} keys",
            topic,
            in_words(error),
            LAST_RETRY_SECONDS,
            "; `inventory topics create` creates missing topics" if chosen is None else "",
        )

    def due(self) -> bool:
        """Return whether what is set aside is to be tried again; the attempt after it is then a delay away."""
        now = asyncio.get_running_loop().time()
        if not self._held or now < self._retry_at:
            return False
        self._delay = min(self._delay * 2, LAST_RETRY_SECONDS)
        self._retry_at = now + self._delay
        return True

    def start_over(self) -> None:
        """Look for the first events of everything in the whole outbox: shards were taken whose events may be older."""
        self._held = [replace(held, from_position=0) for held in self._held]

    def release(self, held: Held) -> None:
        """Include events in the poll again: one of them was published, or none are left."""
        self._held.remove(held)
        logger.info("Events of %s are published again", held.topic)
