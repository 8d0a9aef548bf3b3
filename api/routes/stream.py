"""Server-sent events: the state of the products asked for, then each change after its commit.

State and not history: a product that changes several times between two polls, or while a client reads slowly, is sent
once, as it is then. Versions only grow. So a client that connects again has missed nothing once it has the first
events, and a Last-Event-ID is neither given nor read.

Any caller may watch any product that it names. A product that does not exist is an `unknown` event, and a `level` event
as soon as it is created. Comments come while nothing changes. The stream ends with an `end` event: when the token would
no longer be accepted, after the configured lifetime, when the database does not answer, or when the process stops.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, NamedTuple

import orjson
from fastapi import Query, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from api.answers import problems
from api.auth import LEEWAY_SECONDS
from api.levels import STOCK_EXAMPLE, stock_json
from api.services import Anyone, Parts, exempt_from_duration
from api.values import QueryText, inventory_router
from api.watching import End, Watch, WatchEndedError, Watchers
from storage import stock
from storage.stock import StockLevel

MAX_PRODUCTS = 100
# Proxies commonly close a connection that is silent for a minute.
HEARTBEAT_SECONDS = 15.0
RETRY_MS = 2_000

_EXAMPLE = f"retry: {RETRY_MS}\nevent: level\ndata: {orjson.dumps(STOCK_EXAMPLE).decode()}\n\n"


def _event_schema(name: str, data: dict[str, object]) -> dict[str, object]:
    content = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    return {"properties": {"event": {"const": name}, "data": content}}


def _object(name: str, schema: dict[str, object]) -> dict[str, object]:
    return {"type": "object", "required": [name], "properties": {name: schema}}


# OpenAPI 3.1 has no schema of a whole stream: readers of documents take this one as that of each event.
_EVENT: dict[str, object] = {
    "type": "object",
    "required": ["event", "data"],
    "oneOf": [
        _event_schema("level", {"$ref": "#/components/schemas/Stock"}),
        _event_schema("unknown", _object("product_id", {"type": "string"})),
        _event_schema("end", _object("reason", {"type": "string"})),
    ],
}

router = inventory_router()


class Deadline(NamedTuple):
    """When the stream ends at the latest, by the event loop's clock, and why."""

    at: float
    reason: End


class EventStream(StreamingResponse):
    """The answer; it stops watching however it ends, also where it never began."""

    media_type = "text/event-stream"

    def __init__(self, watchers: Watchers, watch: Watch, events: AsyncIterator[bytes]) -> None:
        # For nginx: pass each event on at once.
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._watchers = watchers
        self._watch = watch

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._watchers.close(self._watch)


@router.get(
    "/stream",
    response_class=EventStream,
    status_code=200,
    responses={
        **problems(),
        200: {
            "description": "Events `level` (the JSON of a product), `unknown` (its id) and `end` (the reason).",
            "content": {"text/event-stream": {"schema": _EVENT, "example": _EXAMPLE}},
        },
    },
    summary="Watch products",
)
async def stream(
    request: Request,
    caller: Anyone,
    services: Parts,
    product_id: Annotated[
        list[QueryText], Query(min_length=1, max_length=MAX_PRODUCTS, description="The products, at most 100.")
    ],
) -> EventStream:
    """Send the stock of the products, then each change after its commit, as server-sent events."""
    exempt_from_duration(request)
    now = asyncio.get_running_loop().time()
    token_seconds = caller.expires_at + LEEWAY_SECONDS - services.clock().timestamp()
    deadline = min(
        Deadline(now + token_seconds, End.TOKEN_EXPIRED),
        Deadline(now + services.limits.stream_seconds, End.LIFETIME),
    )
    watch = services.watchers.open(product_id)
    try:
        async with services.connection() as connection:
            found = await stock.read_stock(connection, watch.product_ids)
    except BaseException:
        services.watchers.close(watch)
        raise
    for level in found.values():
        watch.know(level)
    first = [*map(_level, found.values()), *map(_unknown, sorted(watch.product_ids - found.keys()))]
    return EventStream(services.watchers, watch, _events(first, watch, deadline))


async def _events(first: Sequence[bytes], watch: Watch, deadline: Deadline) -> AsyncIterator[bytes]:
    """Give the stream's bytes until it ends."""
    clock = asyncio.get_running_loop().time
    yield b"".join((b"retry: %d\n" % RETRY_MS, *first))
    while (left := deadline.at - clock()) > 0:
        try:
            async with asyncio.timeout(min(left, HEARTBEAT_SECONDS)):
                levels = await watch.changes()
        except TimeoutError:
            yield b": still here\n\n"
        except WatchEndedError as ended:
            yield _end(ended.reason)
            return
        else:
            yield b"".join(map(_level, levels))
    yield _end(deadline.reason)


def _level(level: StockLevel) -> bytes:
    return b"event: level\ndata: %b\n\n" % orjson.dumps(stock_json(level), option=orjson.OPT_UTC_Z)


def _unknown(product_id: str) -> bytes:
    return b"event: unknown\ndata: %b\n\n" % orjson.dumps({"product_id": product_id})


def _end(reason: End) -> bytes:
    return b"event: end\ndata: %b\n\n" % orjson.dumps({"reason": reason.value})
