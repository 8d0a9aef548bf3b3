"""Carts: hold what is in a cart while its owner decides.

A request states the whole cart as it is now; an empty one releases everything. All of it is held, or nothing changes
and a 409 lists every short line; `partial` holds as much as is available. Each request renews the whole cart's
deadline. A user reaches its own carts only; without `cart_id` it is the one cart that every user has.
"""

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.answers import json_answer, problems
from api.holds import Line, cart_id_for, is_expired, lines_json, owner_of, remaining_minutes, unknown_cart, user_for
from api.problems import ProblemError, ShortLine
from api.services import Anyone, Parts, Services
from api.values import Identifier, Items, QueryText, Received, inventory_router, summed
from api.writing import IdempotencyKey, identify, json_body, refusal, short_line, shortage, write
from domain import commands
from domain.model import Decision, Disposition, Reason, State
from storage.answers import Answer

MAX_MINUTES = 527_040

router = inventory_router()

Minutes = Annotated[int, Field(ge=1, le=MAX_MINUTES)]
CartId = Annotated[QueryText | None, Query(description="The cart; without it the caller's own.")]


class CartRequest(Received):
    """The whole cart as it is now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{"product_id": "mug-blue", "quantity": 2}], "expires_in_minutes": 20}]
        }
    )

    items: Items = Field(
        description="The whole cart; empty lets everything go. Lines that repeat a product are summed."
    )
    cart_id: Identifier | None = Field(None, description="The cart; without it the user's own.")
    user_id: Identifier | None = Field(None, description="Whose cart it is; services and admins name others.")
    partial: bool = Field(default=False, description="Hold what there is, rather than all or nothing.")
    expires_in_minutes: Minutes | None = Field(None, description="How long to hold it, within the shop's maximum.")


class ExtendRequest(Received):
    """How long a cart is to be held from now."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"expires_in_minutes": 30}]})

    expires_in_minutes: Minutes | None = Field(None, description="How long from now, within the shop's maximum.")
    cart_id: Identifier | None = Field(None, description="The cart; without it the caller's own.")


class Cart(BaseModel):
    """What a cart holds; after a partial one, `short` are the lines of which there was less."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "cart_id": "user:ann",
                    "user_id": "ann",
                    "status": "active",
                    "items": [{"product_id": "mug-blue", "quantity": 2}],
                    "expires_at": "2026-03-01T10:45:30.250000Z",
                    "short": [],
                }
            ]
        }
    )

    cart_id: str = Field(description="The cart.")
    user_id: str | None = Field(description="Whose it is.")
    status: str = Field(description="active, emptied, converted (to an order) or expired.")
    items: list[Line] = Field(description="What it holds.")
    expires_at: datetime | None = Field(description="Until when; null where it holds nothing.")
    short: list[ShortLine] = Field(description="Lines of which less is held than requested.")


class CartView(BaseModel):
    """What a cart holds at this moment."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "cart_id": "user:ann",
                    "user_id": "ann",
                    "status": "active",
                    "items": [{"product_id": "mug-blue", "quantity": 2}],
                    "expires_at": "2026-03-01T10:45:30.250000Z",
                    "is_expired": False,
                    "remaining_minutes": 30,
                }
            ]
        }
    )

    cart_id: str = Field(description="The cart.")
    user_id: str | None = Field(description="Whose it is.")
    status: str = Field(description="active, emptied, converted (to an order) or expired.")
    items: list[Line] = Field(description="What it holds.")
    expires_at: datetime | None = Field(description="Until when; null where it holds nothing.")
    is_expired: bool = Field(description="Whether its time is over.")
    remaining_minutes: int = Field(description="How many minutes are left, begun ones included.")


@router.post("/reserve/cart", response_model=Cart, responses=problems(404, 409, 413), summary="Hold a cart")
async def reserve_cart(
    caller: Anyone, services: Parts, request: Request, body: CartRequest, idempotency_key: IdempotencyKey = None
) -> Response:
    """Hold the whole cart as it is now."""
    user_id = user_for(caller, body.user_id)
    cart_id = cart_id_for(caller, body.cart_id, user_id)
    if user_id is None and body.cart_id is None:
        user_id = caller.subject
    command = commands.UpdateCart(
        identify(request, idempotency_key).cause(),
        cart_id,
        summed(body.items),
        user_id,
        partial=body.partial,
        expires_in=_duration(services, body.expires_in_minutes),
    )
    return await write(
        services, request, commands.Request(command, owner_of(caller)), body, partial(_cart_answer, cart_id)
    )


@router.get("/reserve/cart", response_model=CartView, responses=problems(404), summary="Look at a cart")
async def get_cart(
    caller: Anyone,
    services: Parts,
    cart_id: CartId = None,
) -> Response:
    """Show what a cart holds and for how long."""
    wanted = cart_id_for(caller, cart_id, None)
    async with services.waiting():
        cart = await services.reader.cart(wanted)
    owner = owner_of(caller)
    if cart is None or (owner is not None and cart.user_id != owner):
        raise unknown_cart()
    now = services.clock()
    return json_answer(
        {
            "cart_id": cart.owner_id,
            "user_id": cart.user_id,
            "status": cart.status,
            "items": lines_json(cart.lines),
            "expires_at": cart.expires_at,
            "is_expired": is_expired(cart.status, cart.expires_at, now),
            "remaining_minutes": remaining_minutes(cart.expires_at, now),
        },
        headers={"Cache-Control": "no-store"},
    )


@router.post("/reserve/cart/extend", response_model=Cart, responses=problems(404, 409, 413), summary="Prolong a cart")
async def extend_cart(
    caller: Anyone, services: Parts, request: Request, body: ExtendRequest, idempotency_key: IdempotencyKey = None
) -> Response:
    """Hold a cart for longer; one that is held for longer already stays as it is."""
    cart_id = cart_id_for(caller, body.cart_id, None)
    length = _duration(services, body.expires_in_minutes) or services.limits.cart_ttl
    command = commands.ExtendCart(identify(request, idempotency_key).cause(), cart_id, length)
    return await write(
        services, request, commands.Request(command, owner_of(caller)), body, partial(_cart_answer, cart_id)
    )


@router.delete("/reserve/cart", response_model=Cart, responses=problems(404, 409), summary="Let a cart go")
async def release_cart(
    caller: Anyone,
    services: Parts,
    request: Request,
    idempotency_key: IdempotencyKey = None,
    cart_id: CartId = None,
) -> Response:
    """Release everything that a cart holds."""
    wanted = cart_id_for(caller, cart_id, None)
    command = commands.ReleaseCart(identify(request, idempotency_key).cause(), wanted)
    return await write(
        services, request, commands.Request(command, owner_of(caller)), [wanted], partial(_cart_answer, wanted)
    )


def _duration(services: Services, minutes: int | None) -> timedelta | None:
    if minutes is None:
        return None
    length = timedelta(minutes=minutes)
    if length > services.limits.max_cart_ttl:
        longest = int(services.limits.max_cart_ttl.total_seconds() // 60)
        raise ProblemError(
            "invalid_request",
            "The cart cannot be held for that long.",
            errors=[{"location": ["body", "expires_in_minutes"], "message": f"must be at most {longest}"}],
        )
    return length


def _cart_answer(cart_id: str, decision: Decision, state: State) -> Answer:
    if decision.disposition is Disposition.REFUSED:
        if decision.reason in {Reason.INSUFFICIENT_STOCK, Reason.UNKNOWN_PRODUCT}:
            return shortage(decision.shortages)
        return refusal(decision)
    cart = state.carts[cart_id]
    return json_body(
        {
            "cart_id": cart_id,
            "user_id": cart.user_id,
            "status": cart.status,
            "items": lines_json(cart.held),
            "expires_at": cart.expires_at,
            "short": [short_line(line) for line in decision.shortages],
        }
    )
