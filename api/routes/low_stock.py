"""Low stock: the products at or below their threshold, in the order of their ids.

Any caller may ask. The list comes through Redis, which keeps it for 10 minutes and follows every commit; a list of more
than 10,000 products is read from PostgreSQL.
"""

from bisect import bisect_right
from typing import Annotated, Literal

from fastapi import Query, Response

from api.answers import json_answer, problems
from api.levels import StockPage, stock_json
from api.pages import DEFAULT_LIMIT, MAX_CURSOR_LENGTH, MAX_LIMIT
from api.services import Anyone, Parts, Services
from api.values import inventory_router
from storage.cache import MAX_LOW_STOCK
from storage.pages import products_page
from storage.stock import StockLevel

CACHE_CONTROL = "private, no-cache, stale-if-error=600"

router = inventory_router()


@router.get(
    "/low-stock", response_model=StockPage, responses=problems(400), summary="List products that are low or out"
)
async def list_low_stock(
    _caller: Anyone,
    services: Parts,
    status: Annotated[Literal["low", "out"] | None, Query(description="Only those that are low, or out.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Most products on a page.")] = DEFAULT_LIMIT,
    cursor: Annotated[
        str | None, Query(max_length=MAX_CURSOR_LENGTH, description="The last page's next_cursor.")
    ] = None,
) -> Response:
    """List the products at or below their threshold, a page at a time."""
    after = "" if cursor is None else str(services.cursors.read("low-stock", cursor, status))
    statuses = ("low", "out") if status is None else (status,)
    async with services.waiting():
        levels = await _page(services, after, limit + 1, statuses)
    following = (
        services.cursors.make("low-stock", levels[limit - 1].product_id, status) if len(levels) > limit else None
    )
    return json_answer(
        {"products": [stock_json(level) for level in levels[:limit]], "next_cursor": following},
        headers={"Cache-Control": CACHE_CONTROL},
    )


async def _page(services: Services, after: str, limit: int, statuses: tuple[str, ...]) -> list[StockLevel]:
    """Return the page that follows `after`."""
    listed = await services.reader.low_stock()
    if len(listed) >= MAX_LOW_STOCK:
        async with services.pool.acquire() as connection:
            return await products_page(connection, after, limit, statuses)
    # Ids are compared by their bytes, as PostgreSQL does in the collation "C".
    start = bisect_right(listed, after.encode(), key=lambda level: level.product_id.encode())
    page = [level for level in listed[start:] if level.stock_status in statuses][:limit]
    undated = [level.product_id for level in page if level.updated_at is None]
    if not undated:
        return page
    # A level that changed a moment ago is in the list without its time; what is read now may be newer, and ok.
    dated = await services.reader.stock(undated, dated=True)
    return [dated.get(level.product_id, level) for level in page]
