"""The contracts of the events that the worker publishes.

The worker builds these bodies without the models, for speed; the tests check every body against them. An optional field
without a value is absent, never null. Consumers ignore unknown fields, because later versions may add some.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

# In order of precedence: the first that applies is published.
RefusalReason = Literal[
    "unknown_product",
    "stale_version",
    "already_paid",
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
    """What every outgoing body repeats from its headers, for consumers without CloudEvents support.

    Unknown fields are forbidden here, where the worker is under test, and allowed in the exported schemas, because
    consumers must accept them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: Name = Field(
        description="Deterministic: an event that is published again has the same id, so consumers can drop it. Equal "
        "to the header ce_id."
    )
    occurred_at: AwareDatetime = Field(description="Time of the causing event, in UTC. Equal to the header ce_time.")
    caused_by: Name = Field(description="The id of the event that caused it.")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_rather_than_null(cls, body: object) -> object:
        if isinstance(body, dict):
            nulls = [str(name) for name, value in body.items() if value is None]
            if nulls:
                raise ValueError(f"must be absent instead of null: {', '.join(nulls)}")
        return body


class _StockLevel(Outgoing):
    product_id: Name = Field(description="The product's id; also the record's key.")
    available: Units = Field(description="Units that can still be promised: on_hand - reserved.")
    reserved: Units = Field(description="Units held for carts and unpaid orders.")
    on_hand: Units = Field(description="Units that the shop has, reserved ones included.")
    threshold: Units = Field(description="The product is low when available is at or below this number of units.")
    version: Units = Field(description="The product's version; a higher one is newer.")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.available != self.on_hand - self.reserved:
            raise ValueError(f"available {self.available} is not on_hand {self.on_hand} - reserved {self.reserved}")
        return self


class LowStock(_StockLevel):
    """A product became low or out of stock. Published once per edge, and again only after a recovery."""

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
    severity: Literal["low", "out"] = Field(description="low: some units are available; out: none is.")


class StockRecovered(_StockLevel):
    """A product that was low or out of stock is above its threshold again."""

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
    severity: Literal["ok"] = Field(description="Always ok.")


class BackInStock(_StockLevel):
    """Units of a product of which none was available are available again.

    One event each time available goes from 0 to more than 0, also when the product stays at or below its threshold, and
    each time that happens: no recovery is needed in between. If the same change brings the product above its threshold,
    `inventory.stock_recovered` is published as well, with the same version and cause. Creating a product with stock is
    not a return.
    """

    model_config = _with_example(
        "inventory.back_in_stock",
        {
            "product_id": "mug-blue",
            "available": 6,
            "reserved": 4,
            "on_hand": 10,
            "threshold": 15,
            "severity": "low",
            "version": 31,
        },
    )

    type: Literal["inventory.back_in_stock"] = Field(description="Equal to the header ce_type.")
    severity: Literal["ok", "low"] = Field(description="The stock status now: ok above the threshold, otherwise low.")
    available: Annotated[int, Field(ge=1)] = Field(description="Units that can be promised again: on_hand - reserved.")


class Level(BaseModel):
    """The stock of a product as it was when the record was written; the last record of a product is its state.

    State and not history: changes within 100 ms are merged, and more when many products change at once, but the last
    one always follows. Versions never fall from one record of a product to the next; the same version may come twice.
    For every single change read the events.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "product_id": "mug-blue",
                    "on_hand": 12,
                    "reserved": 4,
                    "available": 8,
                    "low_stock_threshold": 10,
                    "stock_status": "low",
                    "version": 31,
                    "updated_at": "2026-03-01T10:15:30.250000Z",
                }
            ]
        },
    )

    product_id: Name = Field(description="The product's id; also the record's key.")
    on_hand: Units = Field(description="Units that the shop has, reserved ones included.")
    reserved: Units = Field(description="Units held for carts and unpaid orders.")
    available: Units = Field(description="Units that can still be promised: on_hand - reserved.")
    low_stock_threshold: Units = Field(
        description="The product is low when available is at or below this number of units."
    )
    stock_status: Literal["ok", "low", "out"] = Field(description="ok, low, or out: none is available.")
    version: Units = Field(description="The product's version; it grows with every change.")
    updated_at: AwareDatetime = Field(description="When the product last changed, in UTC, by PostgreSQL's clock.")


class OutgoingLine(BaseModel):
    """A product and the number of its units that the outcome is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    product_id: Name = Field(description="The product's id.")
    quantity: Annotated[int, Field(ge=1)] = Field(description="Number of units.")


class ShortLine(BaseModel):
    """A line that could not be served in full, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    product_id: Name = Field(description="The product's id.")
    requested: Units = Field(description="Units requested.")
    available: Units = Field(description="Units that were available for this line.")
    reason: RefusalReason = Field(description="Why the line could not be served.")


_LINES: list[JsonValue] = [{"product_id": "mug-blue", "quantity": 2}]
_SHORT_LINES: list[JsonValue] = [
    {"product_id": "mug-blue", "requested": 2, "available": 1, "reason": "insufficient_stock"}
]
_ORDER: dict[str, JsonValue] = {"order_id": "order-1001", "user_id": "user-3"}
_MOVED: dict[str, JsonValue] = {**_ORDER, "lines": _LINES}
_REFUSED: dict[str, JsonValue] = {**_ORDER, "reason": "insufficient_stock", "lines": _SHORT_LINES}


class _OfOrder(Outgoing):
    order_id: Name = Field(description="The order's id; also the record's key.")
    user_id: Name | None = Field(default=None, description="The user who ordered, if known.")


class _OrderMoved(_OfOrder):
    lines: list[OutgoingLine] = Field(description="The units moved, one line per product; empty if none were.")


class _OrderRefused(_OfOrder):
    reason: RefusalReason = Field(description="Why; the first in order of precedence if several reasons apply.")
    lines: list[ShortLine] = Field(description="Every line that could not be served.")


class Reserved(_OrderMoved):
    """All lines of an order are reserved until it is paid, cancelled or expired."""

    model_config = _with_example("inventory.reservation.reserved", _MOVED)

    type: Literal["inventory.reservation.reserved"] = Field(description="Equal to the header ce_type.")


class Rejected(_OrderRefused):
    """An order was refused: nothing is reserved for it, and nothing will be."""

    model_config = _with_example("inventory.reservation.rejected", _REFUSED)

    type: Literal["inventory.reservation.rejected"] = Field(description="Equal to the header ce_type.")


class Deducted(_OrderMoved):
    """An order was paid and its units were deducted from the stock on hand."""

    model_config = _with_example("inventory.reservation.deducted", _MOVED)

    type: Literal["inventory.reservation.deducted"] = Field(description="Equal to the header ce_type.")


class Released(_OrderMoved):
    """An unpaid order was cancelled, in whole or in part, and no longer holds these lines."""

    model_config = _with_example("inventory.reservation.released", _MOVED)

    type: Literal["inventory.reservation.released"] = Field(description="Equal to the header ce_type.")


class Expired(Outgoing):
    """The hold of an order or a cart expired: its units are available again."""

    model_config = _with_example(
        "inventory.reservation.expired", _MOVED, oneOf=[{"required": ["order_id"]}, {"required": ["cart_id"]}]
    )

    type: Literal["inventory.reservation.expired"] = Field(description="Equal to the header ce_type.")
    order_id: Name | None = Field(
        default=None, description="The order whose hold expired, if it was an order's; also the key."
    )
    cart_id: Name | None = Field(
        default=None, description="The cart whose hold expired, if it was a cart's; also the key."
    )
    user_id: Name | None = Field(default=None, description="The user of the order or cart, if known.")
    lines: list[OutgoingLine] = Field(description="The units released, one line per product.")

    @model_validator(mode="after")
    def _has_one_owner(self) -> Self:
        if (self.order_id is None) == (self.cart_id is None):
            raise ValueError("needs exactly one of order_id and cart_id")
        return self


class Shortfall(_OrderRefused):
    """A paid order cannot be served. Somebody must refund it or find stock for it."""

    model_config = _with_example("inventory.reservation.shortfall", _REFUSED)

    type: Literal["inventory.reservation.shortfall"] = Field(description="Equal to the header ce_type.")


class Restocked(_OrderMoved):
    """Deducted units were put back on hand after a cancellation or a refund."""

    model_config = _with_example("inventory.reservation.restocked", _MOVED)

    type: Literal["inventory.reservation.restocked"] = Field(description="Equal to the header ce_type.")


class CartShortage(Outgoing):
    """A cart asks for more units than are available; it holds the ones that were."""

    model_config = _with_example(
        "inventory.reservation.cart_shortage",
        {"cart_id": "cart-7", "user_id": "user-3", "reason": "insufficient_stock", "lines": _SHORT_LINES},
    )

    type: Literal["inventory.reservation.cart_shortage"] = Field(description="Equal to the header ce_type.")
    cart_id: Name = Field(description="The cart's id; also the record's key.")
    user_id: Name | None = Field(default=None, description="The cart's user, if known.")
    reason: RefusalReason = Field(description="Why; the first in order of precedence if several reasons apply.")
    lines: list[ShortLine] = Field(description="Every short line; `available` is what the cart holds of it.")
