"""Orders: reserve what was ordered, look at it, cancel it.

All lines are reserved or none; a shortage is a 409 with every short line. With `cart_id` the order takes over its
cart's hold in the same step. The first time is 201, the same order again 200, the same id with other lines 409. A
user reaches its own orders only, and can cancel until they are paid. Services and admins can cancel a paid one, which
restocks it.
"""

from datetime import datetime
from functools import partial

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from api.answers import json_answer, problems
from api.holds import Line, cart_id_for, is_expired, lines_json, owner_of, unknown_order, user_for
from api.services import Anyone, Parts
from api.values import Identifier, PathId, Received, SomeItems, inventory_router, summed
from api.writing import IdempotencyKey, identify, json_body, refusal, shortage, write
from domain import commands
from domain.model import Decision, Disposition, Order, OrderStatus, Reason, ReservationOutcome, Shortage, State
from storage.answers import Answer

router = inventory_router()

_EXAMPLE: dict[str, JsonValue] = {
    "order_id": "order-1001",
    "user_id": "ann",
    "status": "reserved",
    "items": [{"product_id": "mug-blue", "quantity": 2}],
    "expires_at": "2026-03-01T10:30:30.250000Z",
}


class OrderRequest(Received):
    """What was ordered."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "order_id": "order-1001",
                    "cart_id": "user:ann",
                    "items": [{"product_id": "mug-blue", "quantity": 2}],
                }
            ]
        }
    )

    order_id: Identifier = Field(description="The order, as the shop names it.")
    items: SomeItems = Field(description="What was ordered. Lines that repeat a product are summed.")
    cart_id: Identifier | None = Field(None, description="The cart that became this order; its hold is taken over.")
    user_id: Identifier | None = Field(None, description="Who ordered; services and admins name others.")


class OrderHold(BaseModel):
    """An order, and what is reserved or deducted for it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    order_id: str = Field(description="The order.")
    user_id: str | None = Field(description="Who ordered.")
    status: str = Field(description="reserved, rejected, deducted, expired, released or restocked.")
    items: list[Line] = Field(description="The units that are reserved, or once it is paid, deducted.")
    expires_at: datetime | None = Field(description="Until when they are reserved; null once they are not.")


class OrderView(BaseModel):
    """What is reserved for an order at this moment."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_EXAMPLE, "is_expired": False}]})

    order_id: str = Field(description="The order.")
    user_id: str | None = Field(description="Who ordered.")
    status: str = Field(description="reserved, rejected, deducted, expired, released or restocked.")
    items: list[Line] = Field(description="The units that are reserved.")
    expires_at: datetime | None = Field(description="Until when they are reserved; null once they are not.")
    is_expired: bool = Field(description="Whether the reservation's time is over.")


@router.post(
    "/reserve/order",
    response_model=OrderHold,
    status_code=201,
    responses={
        **problems(404, 409, 413),
        200: {"model": OrderHold, "description": "The order was reserved before."},
    },
    summary="Reserve an order",
)
async def reserve_order(
    caller: Anyone, services: Parts, request: Request, body: OrderRequest, idempotency_key: IdempotencyKey = None
) -> Response:
    """Reserve every line of an order, or none."""
    user_id = user_for(caller, body.user_id)
    cart_id = None if body.cart_id is None else cart_id_for(caller, body.cart_id, user_id)
    cause = identify(request, idempotency_key).cause()
    command = commands.CreateOrder(cause, body.order_id, summed(body.items), cart_id, user_id)
    return await write(
        services, request, commands.Request(command, owner_of(caller)), body, partial(_created_answer, command)
    )


@router.get("/reserve/order/{order_id}", response_model=OrderView, responses=problems(404), summary="Look at an order")
async def get_order(caller: Anyone, services: Parts, order_id: PathId) -> Response:
    """Show what is reserved for an order."""
    async with services.waiting():
        order = await services.reader.order(order_id)
    owner = owner_of(caller)
    if order is None or order.status == OrderStatus.PENDING or (owner is not None and order.user_id != owner):
        raise unknown_order()
    return json_answer(
        {
            "order_id": order.owner_id,
            "user_id": order.user_id,
            "status": order.status,
            "items": lines_json(order.lines),
            "expires_at": order.expires_at,
            "is_expired": is_expired(order.status, order.expires_at, services.clock()),
        },
        headers={"Cache-Control": "no-store"},
    )


@router.delete(
    "/reserve/order/{order_id}", response_model=OrderHold, responses=problems(404, 409), summary="Cancel an order"
)
async def cancel_order(
    caller: Anyone, services: Parts, request: Request, order_id: PathId, idempotency_key: IdempotencyKey = None
) -> Response:
    """Cancel a whole order; one that is cancelled already stays so."""
    command = commands.CancelOrder(identify(request, idempotency_key).cause(), order_id)
    return await write(
        services, request, commands.Request(command, owner_of(caller)), None, partial(order_answer, order_id)
    )


def order_answer(order_id: str, decision: Decision, state: State) -> Answer:
    """Return the answer of a command about an order that exists."""
    if decision.disposition in {Disposition.REFUSED, Disposition.CONFLICT}:
        return refusal(decision)
    return json_body(_order_json(state.orders[order_id]))


def _created_answer(command: commands.CreateOrder, decision: Decision, state: State) -> Answer:
    if decision.disposition is Disposition.REFUSED:
        short = _shortages(decision)
        return shortage(short) if short else refusal(decision)
    if decision.disposition is Disposition.CONFLICT:
        return refusal(decision)
    order = state.orders[command.order_id]
    if order.status is OrderStatus.REJECTED:
        return refusal(Decision(Disposition.REFUSED, Reason.ORDER_REJECTED))
    if order.status is OrderStatus.EXPIRED:
        return refusal(Decision(Disposition.REFUSED, Reason.RESERVATION_EXPIRED))
    if order.status in {OrderStatus.RELEASED, OrderStatus.RESTOCKED}:
        return refusal(Decision(Disposition.REFUSED, Reason.ORDER_CANCELLED))
    return json_body(_order_json(order), 201 if decision.disposition is Disposition.APPLIED else 200)


def _shortages(decision: Decision) -> tuple[Shortage, ...]:
    outcomes = (outcome for outcome in decision.outcomes if isinstance(outcome, ReservationOutcome))
    return next((outcome.shortages for outcome in outcomes if outcome.shortages), ())


def _order_json(order: Order) -> dict[str, object]:
    deducted = order.status is OrderStatus.DEDUCTED
    lines = {
        product_id: line.deducted - line.restocked if deducted else line.held
        for product_id, line in order.lines.items()
    }
    return {
        "order_id": order.order_id,
        "user_id": order.user_id,
        "status": order.status,
        "items": lines_json(lines),
        "expires_at": order.expires_at,
    }
