"""The database's clock, measured by this worker: its own may be wrong, and holds expire by the database's."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from engine import metrics
from storage import load
from storage.database import Connection

logger = logging.getLogger(__name__)

# A slower answer says too little about the moment at which the database read its clock.
MAX_ROUND_TRIP = timedelta(seconds=0.5)
TOLERATED = timedelta(seconds=1)


class DatabaseClock:
    """Translates times of this machine into the database's; until it has measured, both count as equal."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._ahead = timedelta(0)
        self._warned = False

    async def measure(self, connection: Connection) -> None:
        """Compare the clocks, in one round trip; warns once while they differ by more than a second."""
        sent = self._clock()
        there = await load.clock(connection)
        took = self._clock() - sent
        if took > MAX_ROUND_TRIP:
            return
        self._ahead = sent + took / 2 - there
        seconds = self._ahead.total_seconds()
        metrics.CLOCK_SKEW.labels("database").set(seconds)
        differs = abs(self._ahead) > TOLERATED
        if differs and not self._warned:
            logger.warning(
                "This machine's clock is %.1f s %s the database's; watermarks go by the database's. Check the time "
                "synchronization of both",
                abs(seconds),
                "ahead of" if seconds > 0 else "behind",
            )
        self._warned = differs

    def to_database(self, at: datetime) -> datetime:
        """Return what the database's clock showed when this machine's showed `at`."""
        return at - self._ahead
