"""Deductions: an order is paid, and what was reserved for it leaves the stock. For services and admins.

The order is deducted whole or not at all: one that is no longer reserved is refused, and nothing is published about it.
An order that is paid already, by an event or by an earlier request, is answered as it is.
"""

from functools import partial

from fastapi import Request, Response
from pydantic import ConfigDict, Field

from api.answers import problems
from api.routes.orders import OrderHold, order_answer
from api.services import Parts, ServiceOrAdmin
from api.values import Identifier, Received, inventory_router
from api.writing import IdempotencyKey, identify, write
from domain import commands

router = inventory_router()


class DeductRequest(Received):
    """Which order was paid."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"order_id": "order-1001", "payment_id": "pay-88"}]})

    order_id: Identifier = Field(description="The order.")
    payment_id: Identifier | None = Field(None, description="The payment, for your own records.")


@router.post("/deduct", response_model=OrderHold, responses=problems(400, 404, 409, 413), summary="Deduct a paid order")
async def deduct(
    _caller: ServiceOrAdmin,
    services: Parts,
    request: Request,
    body: DeductRequest,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Deduct everything that is reserved for an order."""
    command = commands.PayOrder(identify(request, idempotency_key, required=True).cause(), body.order_id)
    return await write(services, request, commands.Request(command), body, partial(order_answer, body.order_id))
