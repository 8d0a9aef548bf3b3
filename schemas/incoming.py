"""The contracts of the events that other services publish.

Strict on what is read, blind to the rest: wrong types are refused rather than coerced, fields
that are not named here are ignored, so that a producer may add its own.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_ID_LENGTH = 256
MAX_TEXT_LENGTH = 1_000
MAX_LINES = 1_000
MAX_QUANTITY = 1_000_000
MAX_VERSION = 2**63 - 1

# PostgreSQL's text cannot hold NUL. This spelling is understood alike by Rust, Python and
# ECMAScript, so the exported schema says what the worker does.
WITHOUT_NUL = r"^[^\u0000]*$"

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH, pattern=WITHOUT_NUL)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_LENGTH, pattern=WITHOUT_NUL)]
Quantity = Annotated[int, Field(ge=1, le=MAX_QUANTITY)]
QuantityOrZero = Annotated[int, Field(ge=0, le=MAX_QUANTITY)]
Version = Annotated[int, Field(ge=0, le=MAX_VERSION)]


class Contract(BaseModel):
    """Frozen, strict, and deaf to unknown fields."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Item(Contract):
    """One line: a product and how many of it."""

    product_id: Identifier = Field(description="The product, as the shop names it.")
    quantity: Quantity = Field(description="How many units.")


# Only the outer tuple is lax, because a parsed JSON array is a list; the items stay strict.
AnyItems = Annotated[tuple[Item, ...], Field(strict=False, max_length=MAX_LINES)]
SomeItems = Annotated[tuple[Item, ...], Field(strict=False, min_length=1, max_length=MAX_LINES)]


class CartUpdated(Contract):
    """A cart as it is now: a snapshot, not a change. The newest snapshot wins."""

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

    cart_id: Identifier = Field(description="The cart; also the record's key.")
    user_id: Identifier | None = Field(default=None, description="Whose cart it is, if known.")
    version: Version | None = Field(
        default=None,
        description="Grows with each change of the cart. Without it, the event's time decides which snapshot is newer.",
    )
    items: AnyItems = Field(
        description="The whole cart. An empty list means that the cart was emptied. Lines that "
        "repeat a product are summed."
    )


class OrderCreated(Contract):
    """An order was placed: all of its lines are reserved, or none."""

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

    order_id: Identifier = Field(description="The order; also the record's key.")
    cart_id: Identifier | None = Field(
        default=None,
        description="The cart that became this order; its hold passes to the order.",
    )
    user_id: Identifier | None = Field(default=None, description="Who ordered, if known.")
    items: SomeItems = Field(description="What was ordered. Lines that repeat a product are summed.")


class PaymentSucceeded(Contract):
    """An order was paid: its reserved stock is deducted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"order_id": "order-1001", "payment_id": "pay-88"}]})

    order_id: Identifier = Field(description="The order; also the record's key.")
    payment_id: Identifier | None = Field(default=None, description="The payment, if known.")


class OrderCancelled(Contract):
    """An order, or part of it, was cancelled: stock is released or put back."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "order_id": "order-1001",
                    "reason": "changed their mind",
                    "items": [{"product_id": "tea-green", "quantity": 1}],
                }
            ]
        }
    )

    order_id: Identifier = Field(description="The order; also the record's key.")
    reason: Text | None = Field(default=None, description="Why, in the shop's words; kept in the ledger.")
    items: SomeItems | None = Field(
        default=None,
        description="Given: only these lines and quantities are cancelled. Absent: the whole order.",
    )


class PaymentRefunded(Contract):
    """Paid goods were refunded; unless told otherwise, they go back on the shelf."""

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

    order_id: Identifier = Field(description="The order; also the record's key.")
    refund_id: Identifier = Field(description="The refund. A second event with the same refund is a duplicate.")
    items: SomeItems = Field(description="What was refunded, at most what was deducted.")
    restock: bool = Field(default=True, description="Whether the goods can be sold again: false for damaged ones.")


class ProductCreated(Contract):
    """A product exists and may have stock."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"product_id": "mug-blue", "initial_quantity": 120, "low_stock_threshold": 15}]}
    )

    product_id: Identifier = Field(description="The product; also the record's key.")
    initial_quantity: QuantityOrZero = Field(default=0, description="Stock at the start.")
    low_stock_threshold: QuantityOrZero | None = Field(
        default=None,
        description="Stock is low when what is available is at or below this. Without it, the worker's default.",
    )


class InventoryAdjustment(Contract):
    """Stock was corrected by hand, or a product's low-stock threshold was changed, or both."""

    model_config = ConfigDict(
        # What `_is_whole` checks, told to those who only read the schema.
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

    product_id: Identifier = Field(description="The product; also the record's key.")
    operation: Literal["ADD", "SUBTRACT", "SET"] | None = Field(
        default=None, description="What to do with the stock on hand."
    )
    quantity: QuantityOrZero | None = Field(
        default=None,
        description="Units to add or subtract (at least 1), or the counted stock (SET).",
    )
    reason: Text | None = Field(default=None, description="Why; needed when stock is adjusted, kept in the ledger.")
    operator: Identifier | None = Field(default=None, description="Who; kept in the ledger.")
    expected_version: Version | None = Field(
        default=None,
        description="Only with SET: refuse when the product's version is another by now.",
    )
    low_stock_threshold: QuantityOrZero | None = Field(
        default=None, description="The product's new threshold; judged at once."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Refuse half an adjustment, rather than guess the other half."""
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
