"""The rows that a batch works on: locked and loaded, then saved. One statement a table, whatever the batch's size."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

from domain.commands import ExpireCart, ExpireOrder, Expiry
from domain.footprint import footprint, products_of_cart, products_of_order
from domain.model import State, check_order, check_product
from engine.anchor import Anchor, check_anchor
from engine.judge import Changes, key_of
from engine.requests import order_created_by
from engine.tasks import CommandTask, DeadLetterTask, EventTask, RequestTask, Task
from storage import answers, dead_letters, load, save
from storage.answers import Answer
from storage.database import Connection
from storage.load import DueHold, EventKey
from storage.save import PartitionProgress

# Due holds of orders, and of carts, that a batch expires in favour of commands that want their stock.
MAX_DUE_HOLDS = 1000


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
    due: Mapping[str, Sequence[Expiry]],
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


def _named_by(tasks: Iterable[Task], due: Mapping[str, Sequence[Expiry]]) -> tuple[set[str], set[str], set[str]]:
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
    for expiry in {expiry for expiries in due.values() for expiry in expiries}:
        named = footprint(expiry)
        orders.update(named.orders)
        carts.update(named.carts)
    return orders, carts, products


# --- what the load missed -----------------------------------------------------------------------


@dataclass(slots=True)
class DueHolds:
    """Holds that may expire where a product is short: those found so far, due before `until`, on `products`.

    `partitions` are those whose progress is recorded with the batch.
    """

    partitions: Collection[tuple[str, int]] = ()
    until: datetime | None = None
    products: set[str] = field(default_factory=set)
    holds: set[DueHold] = field(default_factory=set)

    def expiries(self) -> Mapping[str, Sequence[Expiry]]:
        """Return their expiries by product, the oldest first.

        Each product has all of them: `domain.decide.step` picks those that hold units of it at that moment.
        """
        until = self.until
        if until is None or not self.holds:
            return {}
        ordered: list[Expiry] = [
            ExpireOrder(hold.owner_id, until) if hold.kind == "order" else ExpireCart(hold.owner_id, until)
            for hold in sorted(self.holds)
        ]
        return dict.fromkeys(self.products, ordered)

    async def find_more(self, connection: Connection, changes: Changes) -> bool:
        """Add due holds on the products that turned out short; say whether the batch must be decided again.

        Holds that the batch itself made count too, also on a product that was looked up before. Were the batch cut
        between such a hold and the shortage, it would be in the tables.
        """
        if not changes.short:
            return False
        if self.until is None:
            self.until = await load.low_watermark(connection, self.partitions)
        until = self.until
        known = len(self.holds)
        new = changes.short - self.products
        if new:
            self.products |= new
            self.holds.update(await load.due_on_products(connection, new, until, MAX_DUE_HOLDS))
        self.holds.update(hold for hold in changes.holds if hold.expires_at < until)
        return len(self.holds) > known or bool(new and self.holds)


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
    await dead_letters.unpark(connection, changes.settled.keys() | changes.forgotten)
    await save.settle_inbox(connection, changes.settled)
    await save.forget_events(connection, changes.forgotten)
    await dead_letters.append_dead_letters(connection, changes.dead_letters)
    await save.append_outbox(connection, changes.outbox)
    await save.save_progress(connection, progress)
