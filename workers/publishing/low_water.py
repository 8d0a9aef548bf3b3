"""The low-water position: where in the outbox a relay starts to read."""

import asyncio

import asyncpg

from storage import outbox

CHECK_SECONDS = 1.0


class LowWater:
    """The outbox position below which no row of our shards is pending and no row can appear any more.

    Rows that are unpublishable or set aside do not hold it back.

    The index of unpublished rows keeps an entry for every row published since the last vacuum, so a poll from the
    beginning would cost more with each event. But a row can appear behind one that is already published, because
    transactions commit in another order than they take positions. So the low-water position passes a position only
    when every transaction that was running when that position was assigned has ended.
    """

    def __init__(self) -> None:
        self.position = 0
        self._candidate: tuple[int, int] | None = None
        self._next_check = 0.0

    def reset(self) -> None:
        """Start from the beginning: what other relays left unpublished in newly taken shards is unknown."""
        self.position, self._candidate = 0, None

    def go_back_to(self, position: int) -> None:
        """Read from `position` again: rows behind it that were set aside are polled for again."""
        if position < self.position:
            self.position, self._candidate = position, None

    async def complete_position(self, connection: asyncpg.Connection) -> int:
        """Return the position up to which no transaction can add rows any more; queries about once a second."""
        now = asyncio.get_running_loop().time()
        if now < self._next_check:
            return self.position - 1
        self._next_check = now + CHECK_SECONDS
        if self._candidate is None:
            # In this order: a transaction that took a position up to `last` has an id below `next_id`.
            last = await outbox.last_position(connection)
            _, next_id = await outbox.transactions(connection)
            # Without new rows since the last check the candidate could not raise the position, and would only delay
            # the next one.
            self._candidate = (last, next_id) if last >= self.position else None
            return self.position - 1
        oldest_running, _ = await outbox.transactions(connection)
        return self._candidate[0] if oldest_running >= self._candidate[1] else self.position - 1

    def raise_to(self, position: int) -> None:
        """Raise the low-water position to `position`: up to there nothing is left to publish, and no row can appear."""
        if position >= self.position:
            self.position, self._candidate = position + 1, None
