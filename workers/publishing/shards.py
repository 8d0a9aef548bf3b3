"""The shards that this relay holds: a fair share of all, taken and given back as relays come and go."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import asyncpg

from storage import outbox
from storage.outbox import DEAD_LETTER_SHARD, SHARDS

REBALANCE_SECONDS = 2.0


class Shards:
    """The shards whose advisory locks the relay's connection holds; `forget()` when that connection is lost."""

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._next_rebalance = 0.0

    @property
    def held(self) -> frozenset[int]:
        """All shards held, the one of the dead letters included."""
        return frozenset(self._held)

    @property
    def of_events(self) -> list[int]:
        """The shards of the outbox that are held."""
        return sorted(self._held - {DEAD_LETTER_SHARD})

    @property
    def of_dead_letters(self) -> bool:
        """Whether this relay is the one that publishes the dead letters."""
        return DEAD_LETTER_SHARD in self._held

    async def rebalance(self, connection: asyncpg.Connection, before_release: Callable[[], Awaitable[None]]) -> bool:
        """About every two seconds, take free shards up to a fair share or give the surplus back.

        `before_release` runs before the first shard is given back. Returns whether a shard was taken.
        """
        now = asyncio.get_running_loop().time()
        if now < self._next_rebalance:
            return False
        self._next_rebalance = now + REBALANCE_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        fair_share = -(-(SHARDS + 1) // max(await outbox.count_relays(connection), 1))
        surplus = sorted(self._held)[fair_share:]
        if surplus:
            await before_release()
        for shard in surplus:
            await outbox.give_back_shard(connection, shard)
            self._held.remove(shard)
        return await self._take(connection, fair_share)

    def forget(self) -> None:
        """Drop all shards: their locks ended with the connection. The next rebalance is due at once."""
        self._held.clear()
        self._next_rebalance = 0.0

    async def _take(self, connection: asyncpg.Connection, fair_share: int) -> bool:
        free = [shard for shard in range(SHARDS + 1) if shard not in self._held]
        random.shuffle(free)
        before = len(self._held)
        for shard in free:
            if len(self._held) >= fair_share:
                break
            if await outbox.take_shard(connection, shard):
                self._held.add(shard)
        return len(self._held) > before
