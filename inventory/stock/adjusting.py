"""Adjusts stock by hand: commands through `engine.execute`, as every other change."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import uuid4

from domain.commands import AdjustStock
from domain.model import Cause, Policy, Reason
from engine.execute import execute
from engine.tasks import BatchResult, CommandTask, TaskDisposition, Verdict, command_task
from storage.cache import Cache
from storage.database import Connection, Pool
from storage.dead_letters import DeadLetterReason
from storage.errors import is_unavailable
from storage.imports import ImportProgress
from storage.load import recorded_outcome
from storage.stock import StockLevel, read_stock
from workers.cache import CacheRefresher

SOURCE: Final = "inventory-cli"
ATTEMPTS: Final = 4
RETRY_SECONDS: Final = 0.5


class Adjusted(NamedTuple):
    """The verdict on an adjustment, and the product's stock now; None for a product that does not exist.

    For a `repeated` one, which an earlier attempt with the same id applied or had refused, it is the first verdict.
    """

    verdict: Verdict
    level: StockLevel | None
    repeated: bool

    @property
    def refused(self) -> bool:
        """Whether nothing was changed because the rules do not allow it, or the id belongs to another change."""
        return self.verdict.disposition in (TaskDisposition.REFUSED, TaskDisposition.CONFLICT)


def new_cause(event_id: str | None = None) -> Cause:
    """Return the cause of a change by hand; its id lets the inbox suppress a retry that was already applied."""
    return Cause(SOURCE, event_id or str(uuid4()), _now())


async def adjust(pool: Pool, policy: Policy, cache: Cache | None, command: AdjustStock) -> Adjusted:
    """Adjust one product; a refusal is a verdict, not an error."""
    result = await apply_tasks(pool, policy, [command_task(command)])
    verdict = result.verdicts[0]
    repeated = verdict.disposition is TaskDisposition.DUPLICATE
    async with pool.acquire() as connection:
        levels = await read_stock(connection, [command.product_id])
        if repeated:
            verdict = await _first_verdict(connection, command.cause)
    await refresh_cache(cache, result)
    return Adjusted(verdict, levels.get(command.product_id), repeated)


async def _first_verdict(connection: Connection, cause: Cause) -> Verdict:
    """Return what the inbox has of a command's first attempt."""
    outcome, reason = await recorded_outcome(connection, (cause.source, cause.event_id))
    message = f"refused when it was first requested ({reason})" if reason else None
    return Verdict(TaskDisposition(outcome), None if reason is None else Reason(reason), message)


async def apply_tasks(
    pool: Pool, policy: Policy, tasks: Sequence[CommandTask], import_progress: ImportProgress | None = None
) -> BatchResult:
    """Apply tasks in one transaction, and again with the same ids if the connection fails.

    The commit may have taken effect all the same: the second attempt is then a duplicate and changes nothing.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await execute(pool, tasks, policy, _now(), import_progress=import_progress)
        except Exception as error:
            if attempt == ATTEMPTS or not is_unavailable(error):
                raise
            await asyncio.sleep(RETRY_SECONDS)
    raise AssertionError("the last attempt returns or raises")


async def refresh_cache(cache: Cache | None, result: BatchResult) -> None:
    """Write changed products to the cache; without it readers see the change when the cached value expires."""
    if cache is not None and result.products:
        refresher = CacheRefresher(cache, _now)
        refresher.after_commit(result)
        await refresher.run_once()


def describe_refusal(verdict: Verdict, product_id: str) -> str:
    """Return why a change was refused, and what to do."""
    match verdict.reason:
        case Reason.UNKNOWN_PRODUCT:
            return (
                f"there is no product {product_id}: create it with `inventory stock import` or a product.created event"
            )
        case Reason.STALE_VERSION:
            return f"{product_id} has changed since: {verdict.message}; look at its stock and decide again"
        case DeadLetterReason.ID_REUSED:
            return f"{product_id}: the id belongs to another change; give this one another --id"
        case Reason.BELOW_RESERVED:
            return f"the stock of {product_id} cannot go that low: {verdict.message}"
        case reason:
            return f"{product_id}: {verdict.message or reason}"


def _now() -> datetime:
    return datetime.now(UTC)
