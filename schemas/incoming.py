"""The contracts of the events that other services publish.

Known fields are strict: a wrong type is refused, not coerced. Unknown fields are ignored: a producer may add its own.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from schemas.limits import MAX_ID_LENGTH, MAX_LINES, MAX_QUANTITY, MAX_TEXT_LENGTH, MAX_VERSION

# PostgreSQL's text cannot hold NUL. The regular expressions of Rust, Python and ECMAScript all read this pattern alike,
# so a validator of the exported schema decides as the worker does.
WITHOUT_NUL = r"^[^\u0000]*$"

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH, pattern=WITHOUT_NUL)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_LENGTH, pattern=WITHOUT_NUL)]
Quantity = Annotated[int, Field(ge=1, le=MAX_QUANTITY)]
QuantityOrZero = Annotated[int, Field(ge=0, le=MAX_QUANTITY)]
Version = Annotated[int, Field(ge=0, le=MAX_VERSION)]


class Contract(BaseModel):
    """Base of the incoming contracts: frozen, strict on types, ignoring unknown fields."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Item(Contract):
    """One line: a product and a number of units."""

    product_id: Identifier = Field(description="The product's id in the shop.")
    quantity: Quantity = Field(description=f"Number of units, from 1 to {MAX_QUANTITY:,}.")


# A parsed JSON array is a list, not a tuple: only the outer type is lax, the items stay strict.
AnyItems = Annotated[tuple[Item, ...], Field(strict=False, max_length=MAX_LINES)]
SomeItems = Annotated[tuple[Item, ...], Field(strict=False, min_length=1, max_length=MAX_LINES)]


class CartUpdated(Contract):
    """The whole cart after a change: a snapshot, not a difference. The newest snapshot wins."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "cart_id": "cart-7",
                    "user_id": "user-3",
                    "version": 4,
                    "items": [{"product_id": "mug-blue", "quantity": 2}],
                }
            ]
        }
    )

    cart_id: Identifier = Field(description="The cart's id; also the record's key.")
    user_id: Identifier | None = Field(default=None, description="The cart's user, if known.")
    version: Version | None = Field(
        default=None,
        description="Increases with each change of the cart, so the snapshot with the highest version is the newest. "
        "If absent, the event's time decides.",
    )
    items: AnyItems = Field(
        description=f"All lines of the cart, at most {MAX_LINES:,}; an empty list empties it. Lines with the same "
        "product are added up."
    )


class OrderCreated(Contract):
    """An order was placed. Either all of its lines are reserved or none is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "order_id": "order-1001",
                    "cart_id": "cart-7",
                    "user_id": "user-3",
                    "items": [
                        {"product_id": "mug-blue", "quantity": 2},
                        {"product_id": "tea-green", "quantity": 1},
                    ],
                }
            ]
        }
    )

    order_id: Identifier = Field(description="The order's id; also the record's key.")
    cart_id: Identifier | None = Field(
        default=None,
        description="The cart that this order was made from; the order takes over the cart's hold.",
    )
    user_id: Identifier | None = Field(default=None, description="The user who ordered, if known.")
    items: SomeItems = Field(
        description=f"The lines ordered, 1 to {MAX_LINES:,}. Lines with the same product are added up."
    )


class PaymentSucceeded(Contract):
    """An order was paid. Its reserved units are deducted from the stock on hand."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"order_id": "order-1001", "payment_id": "pay-88"}]})

    order_id: Identifier = Field(description="The order's id; also the record's key.")
    payment_id: Identifier | None = Field(
        default=None,
        description="The payment's id. A second payment of an order, with another id, is published as a "
        "shortfall with the reason already_paid; without ids it is a duplicate.",
    )


class OrderCancelled(Contract):
    """An order was cancelled, in whole or in part. Reserved units are released, deducted units are restocked."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "order_id": "order-1001",
                    "cancellation_id": "cancellation-9",
                    "reason": "changed their mind",
                    "items": [{"product_id": "tea-green", "quantity": 1}],
                }
            ]
        }
    )

    order_id: Identifier = Field(description="The order's id; also the record's key.")
    cancellation_id: Identifier | None = Field(
        default=None,
        description="Identifies a partial cancellation, so it counts once however often it is published. With other "
        "lines, the same id is a conflict. If absent, the event's id takes its place.",
    )
    reason: Text | None = Field(default=None, description="Why, in the shop's words; recorded in the ledger.")
    items: SomeItems | None = Field(
        default=None,
        description="The lines and quantities to cancel. If absent, the whole order is cancelled. Units that were "
        "refunded before are not restocked again: see `returned` in payment.refunded.",
    )


class PaymentRefunded(Contract):
    """Paid units were refunded. They are put back on hand unless `restock` is false."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "order_id": "order-1001",
                    "refund_id": "refund-5",
                    "items": [{"product_id": "mug-blue", "quantity": 1}],
                    "restock": True,
                }
            ]
        }
    )

    order_id: Identifier = Field(description="The order's id; also the record's key.")
    refund_id: Identifier = Field(
        description="The refund's id. Another event with the same id is a duplicate, or with other content a conflict."
    )
    items: AnyItems = Field(
        default=(),
        description="The lines refunded; absent or empty if only money is given back, such as "
        "shipping costs. All refunds of an order name no more than was ordered.",
    )
    restock: bool = Field(default=True, description="Whether the units can be sold again; false for damaged goods.")
    returned: bool = Field(
        default=False,
        description="Whether the customer sent delivered units back. If false, the refund may be the money of units "
        "that were cancelled: of a product's cancelled and refunded units, only the larger number is put back on hand, "
        "in whatever order the events come. If true, its units are put back in addition to the cancelled ones.",
    )


class ProductCreated(Contract):
    """A product was created, with or without stock."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"product_id": "mug-blue", "initial_quantity": 120, "low_stock_threshold": 15}]}
    )

    product_id: Identifier = Field(description="The product's id; also the record's key.")
    initial_quantity: QuantityOrZero = Field(default=0, description="Units on hand at the start.")
    low_stock_threshold: QuantityOrZero | None = Field(
        default=None,
        description="The product is low when no more units than this are available. If absent, the worker's default.",
    )


class InventoryAdjustment(Contract):
    """The stock on hand was corrected, or the low-stock threshold changed, or both."""

    model_config = ConfigDict(
        # What `_is_whole` checks, for validators that have only the schema.
        json_schema_extra={
            "examples": [
                {
                    "product_id": "mug-blue",
                    "operation": "SET",
                    "quantity": 118,
                    "reason": "stock-taking",
                    "operator": "kim",
                    "expected_version": 12,
                },
                {"product_id": "mug-blue", "low_stock_threshold": 20},
            ],
            "anyOf": [
                {
                    "required": ["operation", "quantity", "reason"],
                    "properties": {
                        "operation": {"type": "string"},
                        "quantity": {"type": "integer"},
                        "reason": {"type": "string", "minLength": 1},
                    },
                },
                {
                    "required": ["low_stock_threshold"],
                    "properties": {
                        "low_stock_threshold": {"type": "integer"},
                        "operation": {"type": "null"},
                        "quantity": {"type": "null"},
                    },
                },
            ],
            "allOf": [
                {
                    "if": {
                        "required": ["operation"],
                        "properties": {"operation": {"enum": ["ADD", "SUBTRACT"]}},
                    },
                    "then": {"properties": {"quantity": {"minimum": 1}}},
                },
                {
                    "if": {
                        "required": ["expected_version"],
                        "properties": {"expected_version": {"type": "integer"}},
                    },
                    "then": {
                        "required": ["operation"],
                        "properties": {"operation": {"const": "SET"}},
                    },
                },
            ],
        }
    )

    product_id: Identifier = Field(description="The product's id; also the record's key.")
    operation: Literal["ADD", "SUBTRACT", "SET"] | None = Field(
        default=None, description="ADD units to the stock on hand, SUBTRACT them, or SET it to a counted number."
    )
    quantity: QuantityOrZero | None = Field(
        default=None,
        description="Units to add or subtract (at least 1), or the number counted (SET, from 0).",
    )
    reason: Text | None = Field(default=None, description="Why; required with an operation, recorded in the ledger.")
    operator: Identifier | None = Field(default=None, description="Who made the change; recorded in the ledger.")
    expected_version: Version | None = Field(
        default=None,
        description="Only with SET: refuse the change unless the product still has this version.",
    )
    low_stock_threshold: QuantityOrZero | None = Field(
        default=None, description="The product's new threshold in units; its stock status is judged again at once."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Refuse an incomplete adjustment instead of guessing the rest."""
        if self.operation is None:
            if self.quantity is not None:
                msg = "quantity needs an operation: ADD, SUBTRACT or SET"
                raise ValueError(msg)
            if self.low_stock_threshold is None:
                msg = "needs an operation with its quantity and reason, or a low_stock_threshold"
                raise ValueError(msg)
        elif self.quantity is None:
            msg = f"operation {self.operation} needs a quantity"
            raise ValueError(msg)
        elif not self.reason:
            msg = f"operation {self.operation} needs a reason"
            raise ValueError(msg)
        elif self.operation != "SET" and self.quantity == 0:
            msg = f"operation {self.operation} needs a quantity of at least 1, got 0"
            raise ValueError(msg)
        if self.expected_version is not None and self.operation != "SET":
            msg = "expected_version goes with operation SET only"
            raise ValueError(msg)
        return self


IncomingData = (
    CartUpdated
    | OrderCreated
    | PaymentSucceeded
    | OrderCancelled
    | PaymentRefunded
    | ProductCreated
    | InventoryAdjustment
)
