"""Products: what is on hand, reserved and available of one, of many, and of all.

Any caller may ask for products that it names. One that is not known is 404 by itself, and named under `unknown` in a
batch. Only services and admins may list all of them.

Answers come through Redis, which follows every commit; `fresh=true` reads PostgreSQL. The ETag is the version, and an
If-None-Match that names it is answered by 304: at once, or with `wait` only after so many seconds without a change.
"""

import asyncio
from typing import Annotated, Literal

from fastapi import Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.answers import json_answer, problems
from api.levels import STOCK_EXAMPLE, Stock, StockPage, etag, etag_matches, stock_json
from api.pages import DEFAULT_LIMIT, MAX_CURSOR_LENGTH, MAX_LIMIT
from api.problems import ProblemError
from api.services import Anyone, Parts, ServiceOrAdmin, Services, exempt_from_duration
from api.values import Identifier, PathId, Received, inventory_router
from api.watching import End, Watch, WatchEndedError
from storage.pages import products_page
from storage.stock import StockLevel, read_stock

MAX_BATCH = 500
MAX_WAIT_SECONDS = 30
# The browser asks each time, mostly for a 304; while we cannot be reached, what it has may be shown for as long as
# Redis would show it.
CACHE_CONTROL = "private, no-cache, stale-if-error=300"

router = inventory_router()
# After every literal path: `{product_id}` would take those too.
last_router = inventory_router()

Fresh = Annotated[bool, Query(description="Read PostgreSQL, not Redis.")]


class Batch(Received):
    """Products to look up."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"product_ids": ["mug-blue", "tea-green"]}]})

    product_ids: Annotated[list[Identifier], Field(strict=False, min_length=1, max_length=MAX_BATCH)] = Field(
        description="The products, at most 500."
    )


class BatchStock(BaseModel):
    """The products that exist, in the order asked for, and those that do not."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"products": [STOCK_EXAMPLE], "unknown": ["tea-red"]}]})

    products: list[Stock] = Field(description="The stock of those that exist.")
    unknown: list[str] = Field(description="Those that do not.")


@router.get(
    "",
    response_model=StockPage,
    responses=problems(400),
    summary="List all products",
)
async def list_products(
    _caller: ServiceOrAdmin,
    services: Parts,
    status: Annotated[
        Literal["ok", "low", "out"] | None, Query(description="Only products of this stock status.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Most products on a page.")] = DEFAULT_LIMIT,
    cursor: Annotated[
        str | None, Query(max_length=MAX_CURSOR_LENGTH, description="The last page's next_cursor.")
    ] = None,
) -> Response:
    """List every product in the order of the ids, a page at a time, from PostgreSQL."""
    after = "" if cursor is None else str(services.cursors.read("products", cursor, status))
    statuses = None if status is None else (status,)
    async with services.connection() as connection:
        levels = await products_page(connection, after, limit + 1, statuses)
    following = services.cursors.make("products", levels[limit - 1].product_id, status) if len(levels) > limit else None
    return json_answer(
        {"products": [stock_json(level) for level in levels[:limit]], "next_cursor": following},
        headers={"Cache-Control": "no-store"},
    )


@router.post("/batch", response_model=BatchStock, responses=problems(413), summary="Look up many products")
async def look_up_products(_caller: Anyone, services: Parts, body: Batch, *, fresh: Fresh = False) -> Response:
    """Return the stock of up to 500 products at once; unknown ones are named, not an error."""
    found = await _read(services, body.product_ids, fresh=fresh)
    wanted = dict.fromkeys(body.product_ids)
    return json_answer(
        {
            "products": [stock_json(found[product_id]) for product_id in wanted if product_id in found],
            "unknown": [product_id for product_id in wanted if product_id not in found],
        },
        headers={"Cache-Control": "no-store"},
    )


@last_router.get(
    "/{product_id}",
    response_model=Stock,
    responses={
        **problems(404),
        200: {"headers": {"ETag": {"description": "The version, in quotes.", "schema": {"type": "string"}}}},
        304: {"description": "The version is still the one in If-None-Match."},
    },
    summary="Look up a product",
)
async def get_product(
    request: Request,
    _caller: Anyone,
    services: Parts,
    product_id: PathId,
    if_none_match: Annotated[str | None, Header(description="The ETag of an earlier answer.")] = None,
    *,
    fresh: Fresh = False,
    wait: Annotated[
        int, Query(ge=0, le=MAX_WAIT_SECONDS, description="With If-None-Match: wait so many seconds for a change.")
    ] = 0,
) -> Response:
    """Return the stock of one product; with `wait` and If-None-Match as soon as it has changed."""
    if wait and if_none_match is not None:
        return await _when_changed(request, services, product_id, if_none_match, wait)
    level = (await _read(services, [product_id], fresh=fresh)).get(product_id)
    if level is None:
        raise unknown_product(product_id)
    if if_none_match is not None and etag_matches(if_none_match, level.version):
        return _unchanged(level)
    return _changed(level)


def unknown_product(product_id: str) -> ProblemError:
    """Return the answer for a product that does not exist."""
    return ProblemError("unknown_product", f"There is no product {product_id}.")


def _changed(level: StockLevel) -> Response:
    return json_answer(stock_json(level), headers=_headers(level))


def _unchanged(level: StockLevel) -> Response:
    return Response(status_code=304, headers=_headers(level))


def _headers(level: StockLevel) -> dict[str, str]:
    return {"ETag": etag(level.version), "Cache-Control": CACHE_CONTROL}


async def _when_changed(request: Request, services: Services, product_id: str, known: str, seconds: int) -> Response:
    """Answer as soon as the product has a version that the caller does not name; 304 when the time is up."""
    exempt_from_duration(request)
    with services.watchers.watch([product_id]) as watch:
        level = (await _read(services, [product_id], fresh=True)).get(product_id)
        if level is None:
            raise unknown_product(product_id)
        if not etag_matches(known, level.version):
            return _changed(level)
        watch.know(level)
        newer = await _newer(request, watch, known, seconds)
    return _unchanged(level) if newer is None else _changed(newer)


async def _newer(request: Request, watch: Watch, known: str, seconds: int) -> StockLevel | None:
    """Return the next level whose version the caller does not name; None when the time is up, or the client gone."""
    # `*` names the version that there is; one to come is a change.
    named = known.replace("*", "")
    client = asyncio.create_task(_end_with_client(request, watch))
    try:
        async with asyncio.timeout(seconds):
            while True:
                [level] = await watch.changes()
                if not etag_matches(named, level.version):
                    return level
    except TimeoutError:
        return None
    except WatchEndedError as ended:
        if ended.reason is End.CLIENT_GONE:
            return None
        name = "database_unavailable" if ended.reason is End.DATABASE_UNAVAILABLE else "overloaded"
        raise ProblemError(name, "Please try again in a moment.") from None
    finally:
        client.cancel()


async def _end_with_client(request: Request, watch: Watch) -> None:
    """End the watch when the client hangs up, so that it does not take up a place until the time is up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    watch.end(End.CLIENT_GONE)


async def _read(services: Services, product_ids: list[str], *, fresh: bool) -> dict[str, StockLevel]:
    if fresh:
        async with services.connection() as connection:
            return await read_stock(connection, product_ids)
    async with services.waiting():
        return await services.reader.stock(product_ids, dated=True)
