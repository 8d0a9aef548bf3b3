"""Where in the outbox a relay begins to look."""

import asyncio

import asyncpg

from storage import outbox

LOOK_SECONDS = 1.0


class LowWater:
    """The position below which a relay need not look: all is published, and nothing can still appear there.

    The index of what waits keeps an entry for every row published since the last vacuum; looking from the
    beginning each time would cost more with each event. But a row can appear behind one that was published
    already, because transactions commit in another order than they take positions. So a position is passed only
    when every transaction that was under way when it was given out is over.
    """

    def __init__(self) -> None:
        self.position = 0
        self._candidate: tuple[int, int] | None = None
        self._next_look = 0.0

    def reset(self) -> None:
        """Look from the beginning: there are shards whose past is unknown."""
        self.position, self._candidate = 0, None

    async def written_up_to(self, connection: asyncpg.Connection) -> int:
        """Return the position up to which all rows there will ever be can be seen; asks about once a second."""
        now = asyncio.get_running_loop().time()
        if now < self._next_look:
            return self.position - 1
        self._next_look = now + LOOK_SECONDS
        if self._candidate is None:
            # In this order: whoever has a position up to the last one has a transaction id below the next one.
            last = await outbox.last_position(connection)
            _, following = await outbox.transactions(connection)
            # Nothing new since the last look: a candidate that cannot raise the water would stand in the way of others.
            self._candidate = (last, following) if last >= self.position else None
            return self.position - 1
        oldest, _ = await outbox.transactions(connection)
        return self._candidate[0] if oldest >= self._candidate[1] else self.position - 1

    def raise_to(self, position: int) -> None:
        """Pass `position`: nothing waits up to there."""
        if position >= self.position:
            self.position, self._candidate = position + 1, None
