"""The values that requests carry, checked alike wherever they stand, and JSON read strictly."""

import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Path, Request, Response
from fastapi.routing import APIRoute
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from typing_extensions import override

from schemas.incoming import (
    WITHOUT_NUL,
    Identifier,
    Quantity,
    QuantityOrZero,
    Text,
)
from schemas.limits import MAX_ID_LENGTH, MAX_LINES

__all__ = ["Identifier", "Item", "Items", "PathId", "Quantity", "QuantityOrZero", "Received", "Text"]

PREFIX: Final = "/api/v1/inventory"
MAX_KEY_LENGTH: Final = 255


def _decoded(value: object) -> object:
    """Decode a path segment, which `api.front` leaves percent-encoded so that an id may contain a slash."""
    if not isinstance(value, str):
        return value
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise ValueError("must be percent-encoded UTF-8") from None


def _sent_as_is(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain NUL")
    return value


def _within_the_calendar(value: datetime) -> datetime:
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be within the years 1 to 9999 in UTC") from None
    return value


PathId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_ID_LENGTH, pattern=WITHOUT_NUL),
    BeforeValidator(_decoded),
    Path(description="The id, percent-encoded; a slash in it is %2F."),
]
QueryText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH), AfterValidator(_sent_as_is)]
QueryTime = Annotated[AwareDatetime, AfterValidator(_within_the_calendar)]


class Received(BaseModel):
    """A body that comes in: types are not coerced, and a field that does not exist is refused, not ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Item(Received):
    """One line: a product and how many of it."""

    product_id: Identifier = Field(description="The product.")
    quantity: Quantity = Field(description="How many units.")


Items = Annotated[tuple[Item, ...], Field(strict=False, max_length=MAX_LINES)]
SomeItems = Annotated[tuple[Item, ...], Field(strict=False, min_length=1, max_length=MAX_LINES)]


def summed(items: tuple[Item, ...]) -> dict[str, int]:
    """Return the units by product; lines that repeat a product are summed."""
    lines: dict[str, int] = {}
    for item in items:
        lines[item.product_id] = lines.get(item.product_id, 0) + item.quantity
    return lines


class StrictRequest(Request):
    """A request whose JSON has one meaning: no key twice, no NaN, UTF-8 only."""

    @override
    async def json(self) -> Any:
        body = await self.body()
        try:
            return json.loads(body.decode(), object_pairs_hook=_without_repeats, parse_constant=_no_constant)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            message = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise json.JSONDecodeError(message, "", 0) from None


class StrictRoute(APIRoute):
    """A route that reads its JSON strictly."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strictly


def inventory_router() -> APIRouter:
    """Return a router for the routes of one file."""
    return APIRouter(prefix=PREFIX, route_class=StrictRoute)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
