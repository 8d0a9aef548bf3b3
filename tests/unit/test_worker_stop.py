"""A worker's parts end when it stops, whatever a library does with the first cancellation."""

import asyncio
import contextlib

from inventory.worker import _end


async def test_a_part_that_swallows_one_cancellation_ends_by_the_next() -> None:
    """redis-py was seen to swallow a cancellation in the middle of a command: the worker then never stopped."""
    begun = asyncio.Event()

    async def deaf_once() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            begun.set()
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    part = asyncio.create_task(deaf_once())
    await begun.wait()
    async with asyncio.timeout(10):
        await _end([part])
    assert part.cancelled()
