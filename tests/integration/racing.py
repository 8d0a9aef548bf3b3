"""Races that prove that they took place: each contender wins a round, or some contender waited for another's lock."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from storage.database import Pool

MAX_ROUNDS = 60

_BLOCKED = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""


async def until_each_wins(
    pool: Pool,
    contenders: Mapping[str, Callable[[int], Awaitable[object]]],
    winner: Callable[[int], Awaitable[str]],
    prepare: Callable[[int], Awaitable[object]] | None = None,
) -> Counter[str]:
    """Start the contenders together, round after round, until each has won; fails after a bounded number of rounds.

    To keep the race even, a winner starts the next round one round trip to the database later, and a loser one earlier.
    All are called with the number of the round.
    """
    handicaps = dict.fromkeys(contenders, 0)
    wins: Counter[str] = Counter()

    async def run(name: str, number: int, start: asyncio.Barrier) -> None:
        await start.wait()
        for _ in range(handicaps[name]):
            await pool.execute("SELECT 1")
        await contenders[name](number)

    for number in range(MAX_ROUNDS):
        if prepare is not None:
            await prepare(number)
        start = asyncio.Barrier(len(contenders))
        await asyncio.gather(*(run(name, number, start) for name in contenders))
        won = await winner(number)
        wins[won] += 1
        if wins.keys() == contenders.keys():
            return wins
        for name in contenders:
            handicaps[name] = handicaps[name] + 1 if name == won else max(handicaps[name] - 1, 0)
    raise AssertionError(f"not every contender won a round of {MAX_ROUNDS}: {dict(wins)}")


@asynccontextmanager
async def contended(pool: Pool) -> AsyncIterator[None]:
    """Fail unless, inside the block, a transaction waited for a lock of another."""
    seen = asyncio.Event()
    async with pool.acquire() as connection:
        watching = asyncio.create_task(_watch(connection.fetchval, seen))
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    assert seen.is_set(), "no transaction waited for another: there was no race"


async def _watch(fetchval: Callable[[str], Awaitable[int]], seen: asyncio.Event) -> None:
    while not await fetchval(_BLOCKED):  # noqa: ASYNC110 - locks in the database set no event here
        await asyncio.sleep(0)
    seen.set()
