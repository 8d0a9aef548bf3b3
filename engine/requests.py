"""The time of a request: the database's clock, read under the locks of what the request touches.

So the times of successive requests increase, whichever process serves them. Where the shop's events are dated a little
ahead of that clock, a request is dated after what it finds: its sender knows the newest state.
"""

import dataclasses
from datetime import datetime, timedelta
from typing import Final

from domain.commands import AdjustMany, CausedCommand, CreateOrder, Request
from domain.footprint import footprint
from domain.model import State

# Clocks of producers further ahead than this are wrong, and their carts are left to refuse the request as stale.
MAX_AHEAD: Final = timedelta(minutes=1)
_TICK: Final = timedelta(microseconds=1)


def stamped(command: CausedCommand, state: State, now: datetime) -> CausedCommand:
    """Return the command dated now, or just after the newest event of the carts that it touches."""
    at = now
    for cart_id in footprint(command).carts:
        cart = state.carts.get(cart_id)
        if cart is not None:
            latest = max(moment for moment in (cart.as_of, cart.converted_at, now) if moment is not None)
            if latest - now <= MAX_AHEAD:
                at = max(at, latest + _TICK if latest > now else now)
    return at_time(command, at)


def at_time(command: CausedCommand, at: datetime) -> CausedCommand:
    """Return the command with its cause, and those of its parts, at this time."""
    match command:
        case Request():
            inner = dataclasses.replace(command.command, cause=command.cause._replace(occurred_at=at))
            return dataclasses.replace(command, command=inner)
        case AdjustMany():
            parts = [
                dataclasses.replace(part, cause=part.cause._replace(occurred_at=at)) for part in command.adjustments
            ]
            return dataclasses.replace(command, cause=command.cause._replace(occurred_at=at), adjustments=parts)
        case _:
            return dataclasses.replace(command, cause=command.cause._replace(occurred_at=at))


def order_created_by(command: CausedCommand) -> CreateOrder | None:
    """Return the order that the command creates, if it does."""
    inner = command.command if isinstance(command, Request) else command
    return inner if isinstance(inner, CreateOrder) else None
