"""How long to wait between attempts: capped exponential backoff with jitter, for every retry loop."""

import asyncio
import random


class Backoff:
    """Delays that double from `first_seconds` up to `last_seconds`, each cut by a random share of up to one half.

    The jitter keeps workers that failed together from trying again together.
    """

    def __init__(self, first_seconds: float, last_seconds: float) -> None:
        self._first_seconds = first_seconds
        self._last_seconds = last_seconds
        self._seconds = first_seconds

    def next_delay(self) -> float:
        """Return the seconds to wait before the next attempt, and double what the one after it waits."""
        seconds = self._seconds
        self._seconds = min(seconds * 2, self._last_seconds)
        return seconds * random.uniform(0.5, 1)  # noqa: S311 - jitter

    def reset(self) -> None:
        """Start over with the first delay; call it after a success."""
        self._seconds = self._first_seconds

    async def wait(self) -> None:
        """Sleep for the next delay."""
        await asyncio.sleep(self.next_delay())
