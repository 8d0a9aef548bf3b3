"""Writes every product's level to `inventory.levels` again: for a topic that was lost, or after an upgrade."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from inventory.console import ProgressLine
from inventory.errors import OperatorError
from storage import levels, stock
from storage.database import Connection
from workers.publishing.levels import LevelPublisher

POLL_SECONDS = 0.2
# How long nothing may be published before the command gives up waiting; the marks stay.
STANDSTILL_SECONDS = 60.0

# Opens a publisher of levels; raises OperatorError if Kafka cannot be used, also inside the block.
OpenPublisher = Callable[[], AbstractAsyncContextManager[LevelPublisher]]


async def republish(connection: Connection, open_publisher: OpenPublisher, show: ProgressLine) -> int:
    """Mark every product and wait until all are published; returns how many products.

    A worker that publishes levels goes on doing so and publishes these too. Where there is none, this process publishes
    until all are done. Raises OperatorError where Kafka cannot be used, or nothing is published any more; what is
    marked by then is published by the next worker.
    """
    total, _ = await stock.count_products(connection)
    marked = await _mark_all(connection, total, show)
    if marked is None:
        return 0
    products, marked_at = marked
    async with open_publisher() as publisher:
        publishing = asyncio.create_task(_publish(publisher))
        try:
            await _wait(connection, publishing, marked_at, products, show)
        finally:
            publishing.cancel()
            await asyncio.wait([publishing])
    return products


async def _mark_all(connection: Connection, total: int, show: ProgressLine) -> tuple[int, datetime] | None:
    """Mark all products page by page; returns how many, and when the last was marked. None where there is none."""
    page = await levels.mark_page(connection, "")
    products = 0
    marked_at: datetime | None = None
    while page is not None:
        products, marked_at = products + page.products, page.marked_at
        show("products marked", products, max(total, products))
        page = await levels.mark_page(connection, page.last_id)
    return None if marked_at is None else (products, marked_at)


async def _publish(publisher: LevelPublisher) -> None:
    """Publish where no other process does; raises what Kafka or the database answers."""
    while True:
        if await publisher.run_once() == 0:
            await asyncio.sleep(POLL_SECONDS)


async def _wait(
    connection: Connection, publishing: "asyncio.Task[None]", marked_at: datetime, products: int, show: ProgressLine
) -> None:
    """Wait until nothing that was marked up to `marked_at` is left."""
    clock = asyncio.get_running_loop().time
    fewest, moved_at = None, clock()
    while remaining := await levels.count_remaining(connection, marked_at):
        show("products published", max(0, products - remaining), products)
        if publishing.done():
            publishing.result()
        if fewest is None or remaining < fewest:
            fewest, moved_at = remaining, clock()
        elif clock() - moved_at > STANDSTILL_SECONDS:
            raise OperatorError(
                f"no level was published for {STANDSTILL_SECONDS:.0f} s although another process holds the right to: "
                "read that worker's log. The products are marked, and are published as soon as it can"
            )
        await asyncio.sleep(POLL_SECONDS)
    show("products published", products, products)
