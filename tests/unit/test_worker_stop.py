"""All tasks of a worker end when it stops, also where a library swallows a cancellation."""

import asyncio
import contextlib

from inventory.worker import _end


async def test_a_task_that_swallows_one_cancellation_ends_with_the_next() -> None:
    """Observed with redis-py, in the middle of a command: the worker never stopped."""
    started = asyncio.Event()

    async def swallow_one() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            started.set()
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = asyncio.create_task(swallow_one())
    await started.wait()
    async with asyncio.timeout(10):
        await _end([task])
    assert task.cancelled()
