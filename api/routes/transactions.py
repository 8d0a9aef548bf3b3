"""Transactions: a product's ledger, the newest entry first, for admins.

Entries are numbered per product without holes and never change, so a page is the same whenever it is read.
"""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.answers import json_answer, problems
from api.levels import CURSOR_EXAMPLE
from api.pages import DEFAULT_LIMIT, MAX_CURSOR_LENGTH, MAX_LIMIT
from api.routes.products import unknown_product
from api.services import Admin, Parts
from api.values import PathId, QueryText, QueryTime, inventory_router
from storage.pages import LAST_SEQUENCE, LedgerFilter, ledger_page
from storage.stock import read_stock

EntryType = Literal["IN", "OUT", "RESERVE", "RELEASE", "ADJUST"]
ReferenceType = Literal["ORDER", "CART", "MANUAL", "IMPORT"]

router = inventory_router()


class Transaction(BaseModel):
    """One movement of a product, as the ledger has it."""

    sequence: int = Field(description="1, 2, 3 ... per product, without holes.")
    type: EntryType = Field(description="IN, OUT, RESERVE, RELEASE or ADJUST.")
    quantity: int = Field(description="How many units moved.")
    on_hand_before: int = Field(description="On hand before.")
    on_hand_after: int = Field(description="On hand after.")
    reserved_before: int = Field(description="Reserved before.")
    reserved_after: int = Field(description="Reserved after.")
    reference_type: ReferenceType = Field(description="What it was made for.")
    reference_id: str = Field(description="The order, the cart, or the event of a correction.")
    operator: str | None = Field(description="Who made it, for a correction.")
    reason: str | None = Field(description="Why, for a correction or a cancellation.")
    event_id: str = Field(description="The event or request behind it.")
    occurred_at: datetime = Field(description="The event's own time.")
    recorded_at: datetime = Field(description="When it was written.")


class TransactionPage(BaseModel):
    """One page of a product's ledger, the newest entry first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "product_id": "mug-blue",
                    "transactions": [
                        {
                            "sequence": 7,
                            "type": "ADJUST",
                            "quantity": 2,
                            "on_hand_before": 14,
                            "on_hand_after": 12,
                            "reserved_before": 4,
                            "reserved_after": 4,
                            "reference_type": "MANUAL",
                            "reference_id": "count-2026-03",
                            "operator": "ann",
                            "reason": "two were broken",
                            "event_id": "count-2026-03",
                            "occurred_at": "2026-03-01T10:15:30.250000Z",
                            "recorded_at": "2026-03-01T10:15:30.254000Z",
                        }
                    ],
                    "next_cursor": CURSOR_EXAMPLE,
                }
            ]
        }
    )

    product_id: str = Field(description="The product.")
    transactions: list[Transaction] = Field(description="The entries.")
    next_cursor: str | None = Field(description="Where the next page begins; null on the last one.")


@router.get(
    "/{product_id}/transactions",
    response_model=TransactionPage,
    responses=problems(400, 404),
    summary="List a product's ledger",
)
async def list_transactions(  # noqa: PLR0913, PLR0917 - one parameter a filter
    _caller: Admin,
    services: Parts,
    product_id: PathId,
    type_: Annotated[list[EntryType] | None, Query(alias="type", description="Only entries of these types.")] = None,
    reference_type: Annotated[ReferenceType | None, Query(description="Only those made for this.")] = None,
    reference_id: Annotated[QueryText | None, Query(description="Only those of this order, cart or event.")] = None,
    operator: Annotated[QueryText | None, Query(description="Only those by this operator.")] = None,
    since: Annotated[QueryTime | None, Query(description="Only those that occurred at or after this.")] = None,
    until: Annotated[QueryTime | None, Query(description="Only those that occurred before this.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Most entries on a page.")] = DEFAULT_LIMIT,
    cursor: Annotated[
        str | None, Query(max_length=MAX_CURSOR_LENGTH, description="The last page's next_cursor.")
    ] = None,
) -> Response:
    """List the movements of a product, the newest first, a page at a time."""
    filters = [product_id, type_, reference_type, reference_id, operator, since, until]
    before = LAST_SEQUENCE if cursor is None else int(services.cursors.read("transactions", cursor, filters))
    wanted = LedgerFilter(type_, reference_type, reference_id, operator, since, until)
    async with services.connection() as connection:
        rows = await ledger_page(connection, product_id, before, limit + 1, wanted)
        if not rows and product_id not in await read_stock(connection, [product_id]):
            raise unknown_product(product_id)
    more = len(rows) > limit
    following = services.cursors.make("transactions", rows[limit - 1].sequence, filters) if more else None
    return json_answer(
        {
            "product_id": product_id,
            "transactions": [row._asdict() for row in rows[:limit]],
            "next_cursor": following,
        },
        headers={"Cache-Control": "no-store"},
    )
