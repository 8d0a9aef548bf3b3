"""Which lines of an order the stock does not cover."""

from collections.abc import Mapping

from domain.model import Reason, Shortage, State


def find_shortages(state: State, wanted: Mapping[str, int], own: Mapping[str, int]) -> tuple[Shortage, ...]:
    """Return a shortage for each product of which fewer units are available than wanted, unknown products first.

    `own` is the hold of the order's own cart, whose units are available to the order.
    """
    unknown: list[Shortage] = []
    short: list[Shortage] = []
    for product_id, quantity in wanted.items():
        product = state.products.get(product_id)
        if product is None:
            unknown.append(Shortage(product_id, quantity, 0, Reason.UNKNOWN_PRODUCT))
            continue
        available = product.on_hand - product.reserved + own.get(product_id, 0)
        if available < quantity:
            short.append(Shortage(product_id, quantity, available, Reason.INSUFFICIENT_STOCK))
    return (*unknown, *short)


def short_products(shortages: tuple[Shortage, ...]) -> tuple[str, ...]:
    """Return the products that more stock would have helped, which leaves out unknown ones."""
    return tuple(shortage.product_id for shortage in shortages if shortage.reason is Reason.INSUFFICIENT_STOCK)
