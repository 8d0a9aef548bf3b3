"""One module per topic: the topic's rule in words, and a pure mapping from its contract to a command.

A module is named after its topic, with `_` for `.`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from domain.commands import CausedCommand
from domain.model import Cause
from schemas.envelope import Event
from workers.handlers import (
    cart_updated,
    inventory_adjustment,
    order_cancelled,
    order_created,
    payment_refunded,
    payment_succeeded,
    product_created,
)

_HANDLERS: Mapping[str, Callable[[Any, Cause], CausedCommand]] = {
    "cart.updated": cart_updated.handle,
    "order.created": order_created.handle,
    "payment.succeeded": payment_succeeded.handle,
    "order.cancelled": order_cancelled.handle,
    "payment.refunded": payment_refunded.handle,
    "product.created": product_created.handle,
    "inventory.adjustment": inventory_adjustment.handle,
}


def command_for(event: Event) -> CausedCommand:
    """Return the command for `event`."""
    cause = Cause(event.source, event.id, event.occurred_at, event.traceparent)
    return _HANDLERS[event.topic](event.data, cause)
