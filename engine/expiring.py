"""One sweep on request: expire the holds that are due."""

from datetime import datetime
from typing import Final, NamedTuple

from domain.commands import ExpireCart, ExpireOrder
from domain.model import Policy
from engine.execute import execute
from engine.tasks import BatchResult, ExpiryTask, Task
from storage import load
from storage.database import Pool

EXPIRY_LIMIT: Final = 500


class Expired(NamedTuple):
    """What a sweep did, up to which time holds were due, and whether more may be."""

    result: BatchResult
    due_before: datetime
    more: bool


async def expire_due(pool: Pool, policy: Policy, now: datetime) -> Expired:
    """Expire at most 500 orders and 500 carts whose holds are due; rows locked by others are skipped."""
    async with pool.acquire() as connection:
        due_before = await load.low_watermark(connection)
        orders = await load.due_orders(connection, due_before, EXPIRY_LIMIT)
        carts = await load.due_carts(connection, due_before, EXPIRY_LIMIT)
    tasks: list[Task] = [
        *(ExpiryTask(ExpireOrder(order_id, due_before)) for order_id in orders),
        *(ExpiryTask(ExpireCart(cart_id, due_before)) for cart_id in carts),
    ]
    result = await execute(pool, tasks, policy, now, skip_locked=True) if tasks else BatchResult(())
    return Expired(result, due_before, max(len(orders), len(carts)) == EXPIRY_LIMIT)
