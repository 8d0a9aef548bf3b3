"""Which lines of an order the stock does not cover."""

from collections.abc import Mapping, Sequence

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


def missing_units(shortages: Sequence[Shortage]) -> dict[str, int]:
    """Return the units that were missing of each product that more stock would have helped: not of unknown ones."""
    return {
        shortage.product_id: shortage.requested - shortage.available
        for shortage in shortages
        if shortage.reason is Reason.INSUFFICIENT_STOCK
    }
