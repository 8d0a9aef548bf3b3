"""The table of topics: which are read, which are written, and where dead letters go."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from pydantic import BaseModel

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
    BackInStock,
    CartShortage,
    Deducted,
    Expired,
    Level,
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
BACK_IN_STOCK: Final = "inventory.back_in_stock"
LEVELS: Final = "inventory.levels"
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


class TopicState(NamedTuple):
    """A compacted topic that the worker writes: of each key the last record is the state."""

    name: str
    contract: type[BaseModel]
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
        "The whole cart after a change. Its hold is changed to match: more units, fewer or none.",
    ),
    TopicIn(
        "order.created",
        OrderCreated,
        "order_id",
        "An order was placed. All its lines are reserved or none; it takes over its cart's hold.",
    ),
    TopicIn(
        "payment.succeeded",
        PaymentSucceeded,
        "order_id",
        "An order was paid. Its reserved units are deducted from the stock on hand.",
    ),
    TopicIn(
        "order.cancelled",
        OrderCancelled,
        "order_id",
        "An order was cancelled, in whole or in part. Its units are released, or restocked if it was paid.",
    ),
    TopicIn(
        "payment.refunded",
        PaymentRefunded,
        "order_id",
        "Paid units were refunded. They are put back on hand unless restock is false.",
    ),
    TopicIn(
        "product.created",
        ProductCreated,
        "product_id",
        "A product was created, with or without stock.",
    ),
    TopicIn(
        "inventory.adjustment",
        InventoryAdjustment,
        "product_id",
        "The stock on hand is corrected, or the low-stock threshold changed.",
    ),
)

TOPICS_OUT: Final[Mapping[str, TopicOut]] = MappingProxyType(
    {
        LOW_STOCK: TopicOut(
            LOW_STOCK,
            MappingProxyType({LOW_STOCK: LowStock}),
            ("product_id",),
            "A product became low or out of stock. One event per edge, none while it stays so.",
        ),
        STOCK_RECOVERED: TopicOut(
            STOCK_RECOVERED,
            MappingProxyType({STOCK_RECOVERED: StockRecovered}),
            ("product_id",),
            "A product that was low or out of stock is above its threshold again.",
        ),
        BACK_IN_STOCK: TopicOut(
            BACK_IN_STOCK,
            MappingProxyType({BACK_IN_STOCK: BackInStock}),
            ("product_id",),
            "Units of a product of which none was available are available again, however few.",
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
            "What became of the units that an order or a cart asked for.",
        ),
    }
)

TOPICS_STATE: Final[Mapping[str, TopicState]] = MappingProxyType(
    {
        LEVELS: TopicState(
            LEVELS,
            Level,
            "product_id",
            "The stock of every product as it is: the last record of a key is its state.",
        )
    }
)


def dlq_topic(topic: str) -> str:
    """Return the name of the topic for dead letters of `topic`."""
    return f"{topic}.dlq"
