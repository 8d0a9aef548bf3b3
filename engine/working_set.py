"""The rows that a batch works on: locked and loaded, then saved. One statement a table, whatever the batch's size."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

from domain.due import DueHold, DueHolds
from domain.footprint import footprint, products_of_cart, products_of_order
from domain.model import State, check_order, check_product
from engine.anchor import Anchor, check_anchor
from engine.judge import Changes, key_of
from engine.requests import order_created_by
from engine.tasks import CommandTask, DeadLetterTask, EventTask, RequestTask, Task
from storage import answers, dead_letters, load, save
from storage.answers import Answer
from storage.database import Connection
from storage.load import EventKey
from storage.save import PartitionProgress

# How many due holds on short products are loaded, the oldest first: at first, where these did not suffice, and after
# that. Each step costs the batch one more attempt.
DUE_HOLDS_LOADED: tuple[int | None, ...] = (1_000, 30_000, None)


@dataclass(frozen=True, slots=True)
class WorkingSet:
    """What the tasks can touch: its state, the events received before, and the ids of the rows that exist.

    Where there are requests, also the answers to those received before, and the database's clock.
    """

    state: State
    known: dict[EventKey, bytes]
    stored_products: AbstractSet[str]
    stored_orders: AbstractSet[str]
    stored_carts: AbstractSet[str]
    answers: Mapping[EventKey, Answer] = field(default_factory=dict)
    clock: datetime | None = None


# --- lock and load ------------------------------------------------------------------------------


async def lock_and_load(
    connection: Connection,
    tasks: Sequence[Task],
    due: Iterable[DueHold],
    *,
    skip_locked: bool,
    anchor: Anchor | None = None,
) -> WorkingSet:
    """Lock and load what the tasks and the due holds touch: orders, then carts, then products.

    Raises DatabaseWentBackError where the anchor is gone.
    """
    orders_wanted, carts_wanted, products_wanted = _named_by(tasks, due)
    events = [key_of(task.command.cause) for task in tasks if isinstance(task, EventTask | CommandTask | RequestTask)]
    if anchor is not None and anchor.event is not None:
        events.append(anchor.event)
    known = await load.known_events(connection, events)
    await check_anchor(connection, anchor, known)
    orders = await load.lock_orders(connection, orders_wanted, skip_locked=skip_locked)
    carts = await load.lock_carts(connection, carts_wanted, skip_locked=skip_locked)
    for order in orders.values():
        products_wanted.update(products_of_order(order))
    for cart in carts.values():
        products_wanted.update(products_of_cart(cart))
    products = await load.lock_products(connection, products_wanted)
    for product in products.values():
        check_product(product)
    for order in orders.values():
        check_order(order)
    requests = [key_of(task.command.cause) for task in tasks if isinstance(task, RequestTask)]
    return WorkingSet(
        State(products, orders, carts),
        known,
        frozenset(products),
        frozenset(orders),
        frozenset(carts),
        await answers.read_answers(connection, [key for key in requests if key in known]),
        await load.clock(connection) if requests else None,
    )


def _named_by(tasks: Iterable[Task], due: Iterable[DueHold]) -> tuple[set[str], set[str], set[str]]:
    """Return the ids of the orders, carts and products that the tasks and the due holds name."""
    orders: set[str] = set()
    carts: set[str] = set()
    products: set[str] = set()
    for task in tasks:
        if not isinstance(task, DeadLetterTask):
            named = footprint(task.command)
            orders.update(named.orders)
            carts.update(named.carts)
            products.update(named.products)
    for hold in due:
        (orders if hold.kind == "order" else carts).add(hold.owner_id)
    return orders, carts, products


# --- what the load missed -----------------------------------------------------------------------


@dataclass(slots=True)
class DueHoldSearch:
    """What the attempts of a batch have found out about due holds on products that turned out short.

    `partitions` are those whose progress is recorded with the batch. `found_until` is what `domain.due.DueHolds` takes.
    """

    partitions: Collection[tuple[str, int]] = ()
    due_before: datetime | None = None
    holds: set[DueHold] = field(default_factory=set)
    found_until: dict[str, DueHold | None] = field(default_factory=dict)
    _searches: dict[str, int] = field(default_factory=dict)

    def in_state(self, state: State) -> DueHolds | None:
        """Return the due holds in a state that was loaded with `holds`; None where none was looked for."""
        return None if self.due_before is None else DueHolds(state, self.due_before, self.found_until)

    async def find_more(self, connection: Connection, changes: Changes, due: DueHolds | None) -> bool:
        """Look for due holds on more products, and for more on those that need it; say whether to decide again.

        Holds that the batch itself made count too: were the batch cut between such a hold and the shortage, it would be
        in the tables.
        """
        exhausted = set() if due is None else due.exhausted
        new = changes.short - self.found_until.keys()
        if not (new or exhausted):
            return False
        if self.due_before is None:
            self.due_before = await load.low_watermark(connection, self.partitions)
        more = bool(exhausted) or any(hold.expires_at < self.due_before for hold in changes.holds)
        by_limit: dict[int | None, list[str]] = {}
        for product_id in new | exhausted:
            search = self._searches.get(product_id, 0)
            self._searches[product_id] = search + 1
            by_limit.setdefault(DUE_HOLDS_LOADED[search], []).append(product_id)
        for limit, product_ids in by_limit.items():
            holds = await load.due_on_products(connection, product_ids, self.due_before, limit)
            self.holds.update(holds)
            self.found_until |= dict.fromkeys(product_ids, holds[-1] if len(holds) == limit else None)
            more = more or bool(holds)
        return more


async def missed_a_cart(
    connection: Connection, working_set: WorkingSet, changes: Changes, tasks: Sequence[Task]
) -> bool:
    """Say whether an order was found short although its own cart, which we did not load, may hold the stock.

    Race: the order was refused for stock that its own cart reserved after we looked for the cart. Another worker made
    the cart between our lock on carts and our lock on products. An order that is accepted writes its cart and so
    collides with that worker; one that is refused writes no cart.
    """
    if not changes.short:
        return False
    created = [
        order_created_by(task.command) for task in tasks if isinstance(task, EventTask | CommandTask | RequestTask)
    ]
    named = {order.cart_id for order in created if order is not None and order.cart_id is not None}
    unknown = named - working_set.state.carts.keys()
    return bool(unknown) and await load.any_cart(connection, unknown)


# --- save ---------------------------------------------------------------------------------------


async def save_changes(
    connection: Connection, working_set: WorkingSet, changes: Changes, progress: Sequence[PartitionProgress]
) -> None:
    """Write everything that changed, a statement a table; a table without changes costs none."""
    state = working_set.state
    products = [state.products[key] for key in changes.products]
    for product in products:
        check_product(product)
    orders = [state.orders[key] for key in changes.orders]
    for order in orders:
        check_order(order)
    carts = [state.carts[key] for key in changes.carts]
    await save.save_products(connection, products, changes.products - working_set.stored_products)
    await save.save_orders(connection, orders, changes.orders - working_set.stored_orders)
    await save.save_carts(connection, carts, changes.carts - working_set.stored_carts)
    await save.append_ledger(connection, changes.ledger)
    await save.append_inbox(connection, changes.inbox.values())
    await answers.append_answers(connection, list(changes.answers.items()))
    await dead_letters.park(connection, changes.parked.values())
    await dead_letters.unpark(connection, changes.resolved.keys() | changes.forgotten)
    await save.resolve_in_inbox(connection, changes.resolved)
    await save.forget_events(connection, changes.forgotten)
    await dead_letters.append_dead_letters(connection, changes.dead_letters)
    await save.append_outbox(connection, changes.outbox)
    await save.save_progress(connection, progress)
