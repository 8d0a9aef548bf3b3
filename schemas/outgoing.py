"""The contracts of the events that the worker publishes.

Written for readers: the worker builds these bodies itself, and its tests hold them against the models here. Optional
fields are left out when there is nothing to say, never null. Readers ignore fields they do not know: more may come.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

# In order of precedence: where several apply, the first is given.
RefusalReason = Literal[
    "unknown_product",
    "stale_version",
    "order_rejected",
    "order_cancelled",
    "reservation_expired",
    "cancellation_exceeds_order",
    "refund_exceeds_deducted",
    "below_reserved",
    "insufficient_stock",
]
REFUSAL_REASONS: tuple[str, ...] = get_args(RefusalReason)

DeadLetterReason = Literal[
    "decode_error",
    "schema_invalid",
    "unknown_type",
    "id_reused",
    "conflict",
    "deadline_expired",
    "retries_exhausted",
]
DEAD_LETTER_REASONS: tuple[str, ...] = get_args(DeadLetterReason)

Name = Annotated[str, Field(min_length=1)]
Units = Annotated[int, Field(ge=0)]


def _with_example(type_: str, body: dict[str, JsonValue], **schema: JsonValue) -> ConfigDict:
    head: dict[str, JsonValue] = {
        "event_id": "0b6c5f0e-6d0c-5b2e-9a55-0d8f3f6f2a11",
        "type": type_,
        "occurred_at": "2026-03-01T10:15:30.250000Z",
        "caused_by": "evt-1001",
    }
    return ConfigDict(json_schema_extra={"examples": [{**head, **body}], **schema})


class Outgoing(BaseModel):
    """What every outgoing body carries, so that a reader without CloudEvents support misses nothing.

    Unknown fields are forbidden here, because here it is the worker that is under test; the exported schemas allow
    them, because readers must.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: Name = Field(
        description="Deterministic: the same consequence of the same cause has the same id, so that a repeat can be "
        "dropped. Equal to the header ce_id."
    )
    occurred_at: AwareDatetime = Field(description="When the cause happened, in UTC. Equal to the header ce_time.")
    caused_by: Name = Field(description="The id of the event that brought this about.")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_rather_than_null(cls, body: object) -> object:
        if isinstance(body, dict):
            nulls = [str(name) for name, value in body.items() if value is None]
            if nulls:
                raise ValueError(f"left out rather than null: {', '.join(nulls)}")
        return body


class _StockLevel(Outgoing):
    product_id: Name = Field(description="The product; also the record's key.")
    available: Units = Field(description="What can still be promised: on_hand - reserved.")
    reserved: Units = Field(description="What is held for carts and unpaid orders.")
    on_hand: Units = Field(description="What is on the shelf.")
    threshold: Units = Field(description="Stock is low when available is at or below this.")
    version: Units = Field(description="The product's version; a greater one is newer.")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.available != self.on_hand - self.reserved:
            raise ValueError(f"available {self.available} is not on_hand {self.on_hand} - reserved {self.reserved}")
        return self


class LowStock(_StockLevel):
    """A product went from ok to low, or to out. Told once per edge; armed again only by recovery."""

    model_config = _with_example(
        "inventory.low_stock",
        {
            "product_id": "mug-blue",
            "available": 8,
            "reserved": 4,
            "on_hand": 12,
            "threshold": 15,
            "severity": "low",
            "version": 31,
        },
    )

    type: Literal["inventory.low_stock"] = Field(description="Equal to the header ce_type.")
    severity: Literal["low", "out"] = Field(description="low: some are left; out: none is.")


class StockRecovered(_StockLevel):
    """A product that was low or out is above its threshold again."""

    model_config = _with_example(
        "inventory.stock_recovered",
        {
            "product_id": "mug-blue",
            "available": 108,
            "reserved": 4,
            "on_hand": 112,
            "threshold": 15,
            "severity": "ok",
            "version": 32,
        },
    )

    type: Literal["inventory.stock_recovered"] = Field(description="Equal to the header ce_type.")
    severity: Literal["ok"] = Field(description="Always ok: nothing is short any more.")


class OutgoingLine(BaseModel):
    """A product and how many units of it the outcome speaks of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    product_id: Name = Field(description="The product.")
    quantity: Annotated[int, Field(ge=1)] = Field(description="How many units.")


class ShortLine(BaseModel):
    """A line that could not be served in full, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    product_id: Name = Field(description="The product.")
    requested: Units = Field(description="How many were asked for.")
    available: Units = Field(description="How many of them could have been had.")
    reason: RefusalReason = Field(description="Why this line was not served.")


_LINES: list[JsonValue] = [{"product_id": "mug-blue", "quantity": 2}]
_SHORT_LINES: list[JsonValue] = [
    {"product_id": "mug-blue", "requested": 2, "available": 1, "reason": "insufficient_stock"}
]
_ORDER: dict[str, JsonValue] = {"order_id": "order-1001", "user_id": "user-3"}
_MOVED: dict[str, JsonValue] = {**_ORDER, "lines": _LINES}
_REFUSED: dict[str, JsonValue] = {**_ORDER, "reason": "insufficient_stock", "lines": _SHORT_LINES}


class _OfOrder(Outgoing):
    order_id: Name = Field(description="The order; also the record's key.")
    user_id: Name | None = Field(default=None, description="Who ordered, if known.")


class _OrderMoved(_OfOrder):
    lines: list[OutgoingLine] = Field(description="What was moved, one line per product; empty when nothing was.")


class _OrderRefused(_OfOrder):
    reason: RefusalReason = Field(description="Why; the first in order of precedence where several apply.")
    lines: list[ShortLine] = Field(description="Every line that was not served, not only the first.")


class Reserved(_OrderMoved):
    """All lines of an order are held, until it is paid, cancelled or expires."""

    model_config = _with_example("inventory.reservation.reserved", _MOVED)

    type: Literal["inventory.reservation.reserved"] = Field(description="Equal to the header ce_type.")


class Rejected(_OrderRefused):
    """An order was refused: nothing of it is held, and it stays refused."""

    model_config = _with_example("inventory.reservation.rejected", _REFUSED)

    type: Literal["inventory.reservation.rejected"] = Field(description="Equal to the header ce_type.")


class Deducted(_OrderMoved):
    """An order was paid and its goods left the stock."""

    model_config = _with_example("inventory.reservation.deducted", _MOVED)

    type: Literal["inventory.reservation.deducted"] = Field(description="Equal to the header ce_type.")


class Released(_OrderMoved):
    """An order, or part of it, was cancelled before it was paid, and no longer holds these lines."""

    model_config = _with_example("inventory.reservation.released", _MOVED)

    type: Literal["inventory.reservation.released"] = Field(description="Equal to the header ce_type.")


class Expired(Outgoing):
    """The time of an order's or a cart's hold ran out; it holds nothing any more."""

    model_config = _with_example(
        "inventory.reservation.expired", _MOVED, oneOf=[{"required": ["order_id"]}, {"required": ["cart_id"]}]
    )

    type: Literal["inventory.reservation.expired"] = Field(description="Equal to the header ce_type.")
    order_id: Name | None = Field(default=None, description="The order whose hold it was; also the record's key.")
    cart_id: Name | None = Field(default=None, description="The cart whose hold it was; also the record's key.")
    user_id: Name | None = Field(default=None, description="Whose it is, if known.")
    lines: list[OutgoingLine] = Field(description="What was held, one line per product.")

    @model_validator(mode="after")
    def _has_one_owner(self) -> Self:
        if (self.order_id is None) == (self.cart_id is None):
            raise ValueError("exactly one of order_id and cart_id is given")
        return self


class Shortfall(_OrderRefused):
    """An order was paid, and the goods cannot be given: somebody must refund or restock."""

    model_config = _with_example("inventory.reservation.shortfall", _REFUSED)

    type: Literal["inventory.reservation.shortfall"] = Field(description="Equal to the header ce_type.")


class Restocked(_OrderMoved):
    """Goods that were paid for came back on the shelf, by a cancellation or a refund."""

    model_config = _with_example("inventory.reservation.restocked", _MOVED)

    type: Literal["inventory.reservation.restocked"] = Field(description="Equal to the header ce_type.")


class CartShortage(Outgoing):
    """A cart wants more than there is; it holds what could be had."""

    model_config = _with_example(
        "inventory.reservation.cart_shortage",
        {"cart_id": "cart-7", "user_id": "user-3", "reason": "insufficient_stock", "lines": _SHORT_LINES},
    )

    type: Literal["inventory.reservation.cart_shortage"] = Field(description="Equal to the header ce_type.")
    cart_id: Name = Field(description="The cart; also the record's key.")
    user_id: Name | None = Field(default=None, description="Whose cart it is, if known.")
    reason: RefusalReason = Field(description="Why; the first in order of precedence where several apply.")
    lines: list[ShortLine] = Field(description="Every line that is short; available is what the cart holds of it.")


OutgoingData = (
    LowStock
    | StockRecovered
    | Reserved
    | Rejected
    | Deducted
    | Released
    | Expired
    | Shortfall
    | Restocked
    | CartShortage
)
