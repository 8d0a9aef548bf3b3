"""The anchor: what a consumer committed last, and looks up with its next batch.

A database that was restored from a backup, or whose asynchronous standby was promoted, lacks the last commits. The
worker would go on from its position in Kafka, and the events in between would be lost. A commit is missing together
with all later ones, so the last one of a process stands for all before it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from domain.model import Disposition
from storage import load, stream
from storage.database import Connection
from storage.dead_letters import DeadLetter
from storage.load import EventKey
from storage.save import InboxRow
from storage.stream import Position


class Anchor(NamedTuple):
    """Rows that the database had after a consumer's last commit.

    `event` or `dead_letter` was written by its last batch. `positions` are those it started to read at; they matter
    until its first batch is committed.
    """

    event: EventKey | None = None
    dead_letter: UUID | None = None
    positions: Sequence[Position] = ()


class DatabaseWentBackError(Exception):
    """The database lacks what was committed to it: a backup was restored, or a standby that lagged was promoted."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


def anchor_of(inbox: dict[EventKey, InboxRow], dead_letters: Sequence[DeadLetter]) -> Anchor | None:
    """Return the anchor that a batch leaves, or None where it wrote neither an event nor a dead letter."""
    if inbox:
        # A parked event may leave the inbox soon, so any other is preferred.
        for key, row in reversed(inbox.items()):
            if row.outcome is not Disposition.PARKED:
                return Anchor(event=key)
        return Anchor(event=next(reversed(inbox)))
    if dead_letters:
        return Anchor(dead_letter=dead_letters[-1].id)
    return None


async def check_anchor(
    connection: Connection, anchor: Anchor | None, known: Mapping[EventKey, bytes] | None = None
) -> None:
    """Raise DatabaseWentBackError where the anchor is gone; `known` are the events that were looked up already."""
    if anchor is None:
        return
    if anchor.event is not None:
        if known is None:
            known = await load.known_events(connection, [anchor.event])
        if anchor.event not in known and not await stream.event_ended(connection, anchor.event):
            raise DatabaseWentBackError
    if anchor.dead_letter is not None and not await stream.has_dead_letter(connection, anchor.dead_letter):
        raise DatabaseWentBackError
    if anchor.positions and await stream.is_behind(connection, anchor.positions):
        raise DatabaseWentBackError
