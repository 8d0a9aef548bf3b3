"""Adjustments: an admin corrects the stock on hand, or a product's threshold.

ADD and SUBTRACT need an Idempotency-Key, because a retry would count twice. SET needs If-Match with the ETag of what it
replaces, or `*`: 428 without, 412 where the product has changed. ADD and SET create a product that is not known yet.
The ledger names the token's subject as the operator. Stock never goes below what is reserved.
"""

import re
from functools import partial
from typing import Annotated, Literal, Self

from fastapi import Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from api.answers import problems
from api.levels import StockStatus, etag
from api.problems import ProblemError
from api.services import Admin, Parts
from api.values import Identifier, PathId, QuantityOrZero, Received, Text, inventory_router
from api.writing import IdempotencyKey, Identity, identify, json_body, refusal, write
from domain import commands
from domain.model import Decision, Disposition, Operation, Product, State
from schemas.limits import MAX_VERSION
from storage.answers import Answer

MAX_ADJUSTMENTS = 1_000
_VERSION_TAG = re.compile(r'"([0-9]{1,19})"')

router = inventory_router()

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="The ETag of the version that is replaced, or *.", max_length=100),
]
_AFTER: dict[str, JsonValue] = {
    "product_id": "mug-blue",
    "on_hand": 17,
    "reserved": 4,
    "available": 13,
    "low_stock_threshold": 10,
    "stock_status": "ok",
    "version": 32,
}


class AdjustRequest(Received):
    """A correction of the stock on hand."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"operation": "ADD", "quantity": 5, "reason": "delivery 4711"}]}
    )

    operation: Literal["ADD", "SUBTRACT", "SET"] = Field(description="Add units, subtract them, or set the stock.")
    quantity: QuantityOrZero = Field(description="How many units.")
    reason: Annotated[Text, Field(min_length=1)] = Field(description="Why, for the ledger.")

    @model_validator(mode="after")
    def _something_moves(self) -> Self:
        if self.quantity == 0 and self.operation != "SET":
            raise ValueError("quantity must be at least 1, except for SET")
        return self


class BatchLine(AdjustRequest):
    """One correction of several; SET says which version it replaces, null for any."""

    product_id: Identifier = Field(description="The product.")
    expected_version: Annotated[int, Field(ge=0, le=MAX_VERSION)] | None = Field(
        None, description="Refuse it where the product has another version. SET must say it; null is any."
    )

    @model_validator(mode="after")
    def _set_names_a_version(self) -> Self:
        if self.operation == "SET" and "expected_version" not in self.model_fields_set:
            raise ValueError("SET needs expected_version; null replaces any")
        return self


class BatchRequest(Received):
    """Corrections that are applied in order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "mode": "all",
                    "adjustments": [
                        {"product_id": "mug-blue", "operation": "ADD", "quantity": 5, "reason": "delivery 4711"},
                        {
                            "product_id": "tea-green",
                            "operation": "SET",
                            "quantity": 40,
                            "reason": "count",
                            "expected_version": None,
                        },
                    ],
                }
            ]
        }
    )

    mode: Literal["all", "each"] = Field(description="all: none where one is refused; each: every one by itself.")
    adjustments: Annotated[tuple[BatchLine, ...], Field(strict=False, min_length=1, max_length=MAX_ADJUSTMENTS)] = (
        Field(description="The corrections, at most 1,000.")
    )


class ThresholdRequest(Received):
    """A product's low-stock threshold."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"low_stock_threshold": 10}]})

    low_stock_threshold: QuantityOrZero = Field(description="The product is low when no more than this is available.")


class AdjustedStock(BaseModel):
    """A product's stock after a change."""

    model_config = ConfigDict(json_schema_extra={"examples": [_AFTER]})

    product_id: str = Field(description="The product.")
    on_hand: int = Field(description="What the shop has, reserved units included.")
    reserved: int = Field(description="What is promised to carts and orders.")
    available: int = Field(description="What can still be promised.")
    low_stock_threshold: int = Field(description="The product is low when no more than this is available.")
    stock_status: StockStatus = Field(description="ok, low or out.")
    version: int = Field(description="Grows with every change; also the ETag.")


class AdjustmentResult(BaseModel):
    """What became of one correction of several."""

    product_id: str = Field(description="The product.")
    status: Literal["applied", "refused"] = Field(description="applied or refused.")
    reason: str | None = Field(None, description="Why it was refused.")
    stock: AdjustedStock | None = Field(None, description="The stock after it, where it was applied.")


class BatchResult(BaseModel):
    """A result for each correction, in their order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"results": [{"product_id": "mug-blue", "status": "applied", "stock": _AFTER}]}]
        }
    )

    results: list[AdjustmentResult] = Field(description="The results.")


@router.put(
    "/{product_id}/adjust",
    response_model=AdjustedStock,
    responses={
        **problems(400, 404, 409, 412, 413, 428),
        201: {"model": AdjustedStock, "description": "The product was created."},
    },
    summary="Correct a product's stock",
)
async def adjust(  # noqa: PLR0913, PLR0917 - what FastAPI passes
    caller: Admin,
    services: Parts,
    request: Request,
    product_id: PathId,
    body: AdjustRequest,
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> Response:
    """Add units, subtract them, or set the stock on hand."""
    identity = identify(request, idempotency_key, required=body.operation != "SET")
    if if_match is None and body.operation == "SET":
        raise ProblemError("precondition_required", "Send If-Match with the ETag of what you replace, or *.")
    command = commands.AdjustStock(
        identity.cause(),
        product_id,
        Operation(body.operation),
        body.quantity,
        reason=body.reason,
        operator=caller.subject,
        expected_version=_version(if_match),
        create=True,
    )
    return await write(services, request, command, body, partial(_adjusted_answer, product_id))


@router.put(
    "/{product_id}/threshold",
    response_model=AdjustedStock,
    responses=problems(404, 409, 412, 413),
    summary="Set a product's low-stock threshold",
)
async def set_threshold(  # noqa: PLR0913, PLR0917 - what FastAPI passes
    caller: Admin,
    services: Parts,
    request: Request,
    product_id: PathId,
    body: ThresholdRequest,
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> Response:
    """Set the threshold; the stock status is judged anew at once."""
    command = commands.AdjustStock(
        identify(request, idempotency_key).cause(),
        product_id,
        threshold=body.low_stock_threshold,
        operator=caller.subject,
        expected_version=_version(if_match),
    )
    return await write(services, request, command, body, partial(_adjusted_answer, product_id))


@router.post(
    "/batch/adjust", response_model=BatchResult, responses=problems(400, 409, 413), summary="Correct many products"
)
async def adjust_many(
    caller: Admin, services: Parts, request: Request, body: BatchRequest, idempotency_key: IdempotencyKey = None
) -> Response:
    """Apply corrections in order, in one transaction."""
    identity = identify(request, idempotency_key, required=True)
    command = commands.AdjustMany(
        identity.cause(),
        [_part(identity, number, line, caller.subject) for number, line in enumerate(body.adjustments)],
        body.mode == "all",
    )
    return await write(services, request, command, body, partial(_batch_answer, command))


def _part(identity: Identity, number: int, line: BatchLine, operator: str) -> commands.AdjustStock:
    return commands.AdjustStock(
        identity.cause(number),
        line.product_id,
        Operation(line.operation),
        line.quantity,
        reason=line.reason,
        operator=operator,
        expected_version=line.expected_version,
        create=True,
    )


def _version(if_match: str | None) -> int | None:
    """Return the version that If-Match names; None for any. A tag that is none of ours matches nothing."""
    if if_match is None or if_match.strip() == "*":
        return None
    found = _VERSION_TAG.fullmatch(if_match.strip())
    return -1 if found is None else int(found[1])


def _adjusted_answer(product_id: str, decision: Decision, state: State) -> Answer:
    if decision.disposition is Disposition.REFUSED:
        return refusal(decision)
    product = state.products[product_id]
    # The first version of a product that this very command brought about.
    created = product_id in decision.products and product.version == 1
    return json_body(_product_json(product), 201 if created else 200, {"ETag": etag(product.version)})


def _batch_answer(command: commands.AdjustMany, decision: Decision, state: State) -> Answer:
    refused = decision.disposition is Disposition.REFUSED
    results: list[dict[str, object]] = []
    for adjustment, part in zip(command.adjustments, decision.parts, strict=True):
        result: dict[str, object] = {"product_id": adjustment.product_id}
        if part.disposition is Disposition.REFUSED:
            result |= {"status": "refused", "reason": part.reason}
        else:
            result["status"] = "applied"
            product = part.products.get(adjustment.product_id) or state.products.get(adjustment.product_id)
            if product is not None and not refused:
                result["stock"] = _product_json(product)
        results.append(result)
    if not refused:
        return json_body({"results": results})
    for result in results:
        if result["status"] == "applied":
            result |= {"status": "refused", "reason": "adjustment_refused"}
    return refusal(decision, results=results)


def _product_json(product: Product) -> dict[str, object]:
    return {
        "product_id": product.product_id,
        "on_hand": product.on_hand,
        "reserved": product.reserved,
        "available": product.available,
        "low_stock_threshold": product.threshold,
        "stock_status": product.status,
        "version": product.version,
    }
