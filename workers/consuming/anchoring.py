"""The anchor of one consumer process: which commit it looks for next, and what happens when that commit is gone."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from engine.anchor import Anchor
from engine.crash import start_anew
from storage.stream import Position
from workers.consuming.client import RecordClient

LEAVE_GROUP_SECONDS = 3.0


class AnchorKeeper:
    """Holds the anchor of the last commit, for as long as the inbox is certain to keep it.

    `lifetime_seconds` must be well below the inbox retention: pruning an anchor must not look like a restore.
    """

    def __init__(self, lifetime_seconds: float, get_client: Callable[[], RecordClient | None]) -> None:
        self._lifetime_seconds = lifetime_seconds
        self._get_client = get_client
        self._anchor: Anchor | None = None
        self._committed_at = 0.0

    def current(self) -> Anchor | None:
        """Return what the database must still have; None before the first commit and long after the last."""
        if time.monotonic() - self._committed_at > self._lifetime_seconds:
            self._anchor = None
        return self._anchor

    def committed(self, anchor: Anchor | None) -> None:
        """Record a batch's anchor; a batch that wrote nothing leaves the one before in place."""
        if anchor is not None:
            self._anchor, self._committed_at = anchor, time.monotonic()

    def started_at(self, positions: Sequence[Position]) -> None:
        """Add the stored positions at which partitions are read from now on."""
        anchor = self.current() or Anchor()
        self._anchor, self._committed_at = anchor._replace(positions=positions), time.monotonic()

    async def start_anew(self) -> NoReturn:
        """Leave the consumer group and end the process; the next one looks up where to read from."""
        client = self._get_client()
        if client is not None:
            # Otherwise the group would wait for this member until its session times out.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(LEAVE_GROUP_SECONDS):
                    await client.stop()
        start_anew(
            "The database lacks events that this worker committed to it: a backup was restored, or a standby that "
            "lagged was promoted. This worker ends so that it starts anew and reads from the database's positions; "
            "`inventory recover` shows them"
        )
