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
    """Expire at most 500 holds that are due, the oldest; rows locked by others are skipped."""
    async with pool.acquire() as connection:
        due_before = await load.low_watermark(connection)
        holds = await load.due_holds(connection, due_before, EXPIRY_LIMIT)
    tasks: list[Task] = [
        ExpiryTask((ExpireOrder if hold.kind == "order" else ExpireCart)(hold.owner_id, due_before)) for hold in holds
    ]
    result = await execute(pool, tasks, policy, now, skip_locked=True) if tasks else BatchResult(())
    return Expired(result, due_before, len(holds) == EXPIRY_LIMIT)
