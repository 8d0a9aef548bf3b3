"""Cleanup: an admin expires what is due now, rather than wait for the sweeper.

Holds are due by the low watermark, up to which every partition of the topics was read; where no topic was ever
consumed, by the database's clock. Rows that a sweeper is working on are left to it.
"""

from datetime import datetime

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from api.answers import json_answer, problems
from api.services import Admin, Parts
from api.values import inventory_router
from engine.expiring import expire_due

router = inventory_router()


class Cleanup(BaseModel):
    """What a sweep did."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"expired": 3, "due_before": "2026-03-01T10:15:30.250000Z", "more": False}]}
    )

    expired: int = Field(description="How many holds of carts and orders expired.")
    due_before: datetime = Field(description="The time up to which holds are due.")
    more: bool = Field(description="Whether more may be due: call it again.")


@router.post(
    "/cleanup/expired-reservations", response_model=Cleanup, responses=problems(), summary="Expire what is due"
)
async def expire_reservations(_caller: Admin, services: Parts) -> Response:
    """Expire the holds that are due, the oldest first, at most 500 of carts and of orders each."""
    async with services.waiting():
        expired = await expire_due(services.pool, services.policy, services.clock())
    services.after_commit(expired.result)
    return json_answer(
        {"expired": expired.result.expired, "due_before": expired.due_before, "more": expired.more},
        headers={"Cache-Control": "no-store"},
    )
