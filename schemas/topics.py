"""The one table of topics: what comes in, what goes out, and where dead letters go."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from schemas.incoming import (
    CartUpdated,
    Contract,
    InventoryAdjustment,
    OrderCancelled,
    OrderCreated,
    PaymentRefunded,
    PaymentSucceeded,
    ProductCreated,
)
from schemas.outgoing import (
    CartShortage,
    Deducted,
    Expired,
    LowStock,
    Outgoing,
    Rejected,
    Released,
    Reserved,
    Restocked,
    Shortfall,
    StockRecovered,
)

# The CloudEvents source of every event that the worker publishes.
SOURCE: Final = "inventory-worker"

LOW_STOCK: Final = "inventory.low_stock"
STOCK_RECOVERED: Final = "inventory.stock_recovered"
RESERVATIONS: Final = "inventory.reservations"

RESERVED: Final = "inventory.reservation.reserved"
REJECTED: Final = "inventory.reservation.rejected"
DEDUCTED: Final = "inventory.reservation.deducted"
RELEASED: Final = "inventory.reservation.released"
EXPIRED: Final = "inventory.reservation.expired"
SHORTFALL: Final = "inventory.reservation.shortfall"
RESTOCKED: Final = "inventory.reservation.restocked"
CART_SHORTAGE: Final = "inventory.reservation.cart_shortage"


class TopicIn(NamedTuple):
    """A topic that the worker reads. Its name is also the type of its events."""

    name: str
    contract: type[Contract]
    key_field: str
    description: str


class TopicOut(NamedTuple):
    """A topic that the worker writes, with the contract of each event type on it."""

    name: str
    types: Mapping[str, type[Outgoing]]
    key_fields: tuple[str, ...]
    description: str


def _by_name(*topics: TopicIn) -> Mapping[str, TopicIn]:
    return MappingProxyType({topic.name: topic for topic in topics})


TOPICS_IN: Final = _by_name(
    TopicIn(
        "cart.updated",
        CartUpdated,
        "cart_id",
        "The whole cart as it is now. Its hold on stock moves to match: more, less or gone.",
    ),
    TopicIn(
        "order.created",
        OrderCreated,
        "order_id",
        "An order was placed. All lines are reserved, or none; the cart's hold passes to the order.",
    ),
    TopicIn(
        "payment.succeeded",
        PaymentSucceeded,
        "order_id",
        "An order was paid. What it reserved is deducted from the stock.",
    ),
    TopicIn(
        "order.cancelled",
        OrderCancelled,
        "order_id",
        "An order, or part of it, was cancelled. Its hold is released, or its goods are put back.",
    ),
    TopicIn(
        "payment.refunded",
        PaymentRefunded,
        "order_id",
        "Paid goods were refunded. They go back on the shelf unless restock is false.",
    ),
    TopicIn(
        "product.created",
        ProductCreated,
        "product_id",
        "A product exists and may have stock.",
    ),
    TopicIn(
        "inventory.adjustment",
        InventoryAdjustment,
        "product_id",
        "Stock is corrected by hand, or a product's low-stock threshold is changed.",
    ),
)

TOPICS_OUT: Final[Mapping[str, TopicOut]] = MappingProxyType(
    {
        LOW_STOCK: TopicOut(
            LOW_STOCK,
            MappingProxyType({LOW_STOCK: LowStock}),
            ("product_id",),
            "A product's stock became low or ran out. One event per edge, never a repeat while it stays so.",
        ),
        STOCK_RECOVERED: TopicOut(
            STOCK_RECOVERED,
            MappingProxyType({STOCK_RECOVERED: StockRecovered}),
            ("product_id",),
            "A product's stock is above its threshold again.",
        ),
        RESERVATIONS: TopicOut(
            RESERVATIONS,
            MappingProxyType(
                {
                    RESERVED: Reserved,
                    REJECTED: Rejected,
                    DEDUCTED: Deducted,
                    RELEASED: Released,
                    EXPIRED: Expired,
                    SHORTFALL: Shortfall,
                    RESTOCKED: Restocked,
                    CART_SHORTAGE: CartShortage,
                }
            ),
            ("order_id", "cart_id"),
            "What became of the stock that an order or a cart asked for.",
        ),
    }
)


def dlq_topic(topic: str) -> str:
    """Name the topic of the dead letters of `topic`."""
    return f"{topic}.dlq"
