"""Which rows a command can read or change, so that they are locked and loaded before it is decided.

Orders and carts name further products: those that they hold or wait for. `products_of_order` and `products_of_cart`
give these once the rows are loaded. Together they are everything that `decide` looks at.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple, assert_never

from domain.commands import (
    AdjustMany,
    AdjustStock,
    CancelOrder,
    Command,
    CreateOrder,
    CreateProduct,
    ExpireCart,
    ExpireOrder,
    ExtendCart,
    ForgetFact,
    PayOrder,
    RefundOrder,
    ReleaseCart,
    Request,
    UpdateCart,
)
from domain.model import Cart, Order


class Footprint(NamedTuple):
    """The ids that a command names."""

    orders: Collection[str] = ()
    carts: Collection[str] = ()
    products: Collection[str] = ()


def footprint(command: Command) -> Footprint:  # noqa: PLR0911 - one branch a footprint
    """Return the orders, carts and products that `command` names."""
    match command:
        case CreateOrder(order_id=order_id, cart_id=cart_id, lines=lines):
            return Footprint((order_id,), () if cart_id is None else (cart_id,), lines)
        case CancelOrder(order_id=order_id, lines=lines):
            return Footprint((order_id,), (), lines or ())
        case RefundOrder(order_id=order_id, lines=lines):
            return Footprint((order_id,), (), lines)
        case PayOrder(order_id=order_id) | ExpireOrder(order_id=order_id) | ForgetFact(order_id=order_id):
            return Footprint((order_id,))
        case UpdateCart(cart_id=cart_id, lines=lines):
            return Footprint((), (cart_id,), lines)
        case ExpireCart(cart_id=cart_id) | ExtendCart(cart_id=cart_id) | ReleaseCart(cart_id=cart_id):
            return Footprint((), (cart_id,))
        case AdjustMany(adjustments=adjustments):
            return Footprint((), (), [adjustment.product_id for adjustment in adjustments])
        case Request(command=inner):
            return footprint(inner)
        case CreateProduct(product_id=product_id) | AdjustStock(product_id=product_id):
            return Footprint((), (), (product_id,))
        case _:
            assert_never(command)


def products_of_order(order: Order) -> Iterator[str]:
    """Give the products of an order's lines and of the facts that wait in it; some may come twice."""
    yield from order.lines
    for fact in order.waiting:
        yield from fact.lines or ()


def products_of_cart(cart: Cart) -> Collection[str]:
    """Return the products that a cart holds."""
    return cart.held
