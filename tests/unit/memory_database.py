"""A database in memory behind `execute`: the functions of `storage` that a batch calls, over dictionaries.

So thousands of batches can be compared in the time of one on a real database. What the statements say is for the
integration tests.
"""

import copy
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from domain.due import DueHold
from domain.model import Cart, CartStatus, LedgerEntry, Order, OrderStatus, Product, ResolvedFact
from engine import execute
from storage import dead_letters, load, save
from storage.dead_letters import DeadLetter, ParkedEvent
from storage.load import EventKey
from storage.save import InboxRow, OutboxRow


@dataclass
class MemoryDatabase:
    """The tables, and the low watermark."""

    low_watermark: datetime
    products: dict[str, Product] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    carts: dict[str, Cart] = field(default_factory=dict)
    ledger: list[LedgerEntry] = field(default_factory=list)
    inbox: dict[EventKey, InboxRow] = field(default_factory=dict)
    outbox: list[OutboxRow] = field(default_factory=list)
    parked: set[EventKey] = field(default_factory=set)
    dead_letters: list[tuple[str, str | None]] = field(default_factory=list)

    def picture(self) -> dict[str, Any]:
        """Return all that can be compared with another database: what is ordered per key only is sorted by it."""
        return {
            "products": self.products,
            "orders": self.orders,
            "carts": self.carts,
            "ledger": sorted(entry[:2] + entry[2:12] + entry.cause[:3] for entry in self.ledger),
            "inbox": self.inbox,
            "outbox": sorted(self.outbox, key=lambda row: row.key),
            "parked": self.parked,
            "dead letters": self.dead_letters,
        }

    # --- what `execute` needs of a pool and a connection ----------------------------------------

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator["MemoryDatabase"]:
        """Return itself: it is its own connection."""
        yield self

    async def execute(self, _statement: str) -> None:
        """Begin or roll back: nothing is written before the decision stands."""


async def _commit(*_arguments: object) -> None:
    pass


def _due(database: MemoryDatabase, product_id: str, until: datetime) -> Iterator[DueHold]:
    for order in database.orders.values():
        if order.status is OrderStatus.RESERVED and product_id in order.lines and order.expires_at < until:  # type: ignore[operator]
            yield DueHold(order.expires_at, "order", order.order_id)  # type: ignore[arg-type]
    for cart in database.carts.values():
        if cart.status is CartStatus.ACTIVE and product_id in cart.held and cart.expires_at < until:  # type: ignore[operator]
            yield DueHold(cart.expires_at, "cart", cart.cart_id)  # type: ignore[arg-type]


async def _low_watermark(database: MemoryDatabase, _partitions: object = ()) -> datetime:
    return database.low_watermark


async def _due_on_products(
    database: MemoryDatabase, product_ids: Collection[str], until: datetime, limit: int | None
) -> list[DueHold]:
    return sorted({hold for product_id in product_ids for hold in _due(database, product_id, until)})[:limit]


async def _known_events(database: MemoryDatabase, keys: Collection[EventKey]) -> dict[EventKey, bytes]:
    return {key: database.inbox[key].digest for key in keys if key in database.inbox}


def _lock(table: str) -> Any:
    async def lock(database: MemoryDatabase, ids: Iterable[str], *, skip_locked: bool = False) -> dict[str, Any]:
        del skip_locked
        rows = getattr(database, table)
        return {key: copy.copy(rows[key]) for key in ids if key in rows}

    return lock


async def _any_cart(database: MemoryDatabase, cart_ids: Iterable[str]) -> bool:
    return any(cart_id in database.carts for cart_id in cart_ids)


def _save(table: str) -> Any:
    async def write(database: MemoryDatabase, rows: Iterable[Any], new: Collection[str]) -> None:
        stored = getattr(database, table)
        for row in rows:
            assert (row[0] in new) == (row[0] not in stored), row
            stored[row[0]] = row

    return write


async def _append_ledger(database: MemoryDatabase, entries: Sequence[LedgerEntry]) -> None:
    database.ledger += entries


async def _append_inbox(database: MemoryDatabase, rows: Iterable[InboxRow]) -> None:
    database.inbox |= {(row.source, row.event_id): row for row in rows}


async def _resolve_in_inbox(database: MemoryDatabase, resolved: Mapping[EventKey, ResolvedFact]) -> None:
    for key, fact in resolved.items():
        database.inbox[key] = database.inbox[key]._replace(outcome=fact.disposition, reason=fact.reason)


async def _forget_events(database: MemoryDatabase, keys: Collection[EventKey]) -> None:
    for key in keys:
        del database.inbox[key]


async def _append_outbox(database: MemoryDatabase, rows: Sequence[OutboxRow]) -> None:
    database.outbox += rows


async def _save_progress(_database: MemoryDatabase, _progress: object) -> None:
    pass


async def _park(database: MemoryDatabase, events: Iterable[ParkedEvent]) -> None:
    database.parked |= {(event.source, event.event_id) for event in events}


async def _unpark(database: MemoryDatabase, keys: Collection[EventKey]) -> None:
    database.parked -= set(keys)


async def _append_dead_letters(database: MemoryDatabase, letters: Sequence[DeadLetter]) -> None:
    database.dead_letters += [(letter.reason, letter.event_id) for letter in letters]


@contextmanager
def in_memory() -> Iterator[None]:
    """Let `execute` work on a `MemoryDatabase` that is given to it as the pool."""
    with pytest.MonkeyPatch.context() as patch:
        for module, functions in (
            (
                load,
                {
                    "low_watermark": _low_watermark,
                    "due_on_products": _due_on_products,
                    "known_events": _known_events,
                    "lock_orders": _lock("orders"),
                    "lock_carts": _lock("carts"),
                    "lock_products": _lock("products"),
                    "any_cart": _any_cart,
                },
            ),
            (
                save,
                {
                    "save_products": _save("products"),
                    "save_orders": _save("orders"),
                    "save_carts": _save("carts"),
                    "append_ledger": _append_ledger,
                    "append_inbox": _append_inbox,
                    "resolve_in_inbox": _resolve_in_inbox,
                    "forget_events": _forget_events,
                    "append_outbox": _append_outbox,
                    "save_progress": _save_progress,
                },
            ),
            (execute, {"commit": _commit}),
            (
                dead_letters,
                {"park": _park, "unpark": _unpark, "append_dead_letters": _append_dead_letters},
            ),
        ):
            for name, function in functions.items():
                patch.setattr(module, name, function)
        yield
