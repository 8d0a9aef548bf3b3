"""The one transaction: everything that moves stock goes through `execute`.

    inbox -> lock and load -> decide, folding event by event -> save -> commit

A call takes a batch of tasks and applies it whole or not at all, with a number of statements that
does not depend on the batch's size. Its result does not depend on how a stream was cut into batches.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from domain.commands import Command, CreateOrder, ExpireCart, ExpireOrder, ForgetFact, OrderCommand, UpdateCart
from domain.decide import Expiry, step
from domain.model import (
    Cart,
    Cause,
    Decision,
    Disposition,
    LedgerEntry,
    Order,
    Policy,
    Product,
    Reason,
    Settled,
    State,
    check_order,
    check_product,
)
from engine.dead_letters import build_dead_letter
from engine.outbox_rows import outbox_row
from storage import dead_letters, load, save
from storage.database import Connection, Pool
from storage.dead_letters import DeadLetter, ParkedEvent, StoredRecord
from storage.errors import is_contention, is_data
from storage.load import DueHold, EventKey
from storage.save import InboxRow, OutboxRow, PartitionProgress

logger = logging.getLogger(__name__)

# A batch that others keep overtaking is tried this often before that counts as a bug.
MAX_CONTENTION_RETRIES = 30
# Holds that are expired within a batch in favour of those who want their stock.
MAX_DUE_HOLDS = 1000
# Each restart is for holds not yet seen; a batch that goes on finding more is applied in halves.
MAX_RESTARTS = 5

_ORDER_COMMANDS = OrderCommand.__args__
_CART_COMMANDS = (UpdateCart, ExpireCart)


@dataclass(frozen=True, slots=True)
class Rules:
    """The policy of the domain and the shell's own: how long an early fact may wait for its order."""

    policy: Policy = field(default_factory=Policy)
    parked_event_ttl: timedelta = timedelta(hours=24)


class Task(NamedTuple):
    """One thing to do.

    - from Kafka: `command`, `digest` of the event's content, and the `record` that brought it;
    - by hand or program: `command` alone; its cause is its identity;
    - an expiry: `command` alone; it has no identity of its own;
    - a dead letter: `letter` alone.
    """

    command: Command | None = None
    digest: bytes = b""
    record: StoredRecord | None = None
    event_type: str = ""
    traceparent: str | None = None
    letter: DeadLetter | None = None


class Verdict(NamedTuple):
    """What became of a task: a disposition, `dead_lettered`, or `duplicate` for an event known by its id."""

    outcome: str
    reason: str | None = None
    message: str | None = None


@dataclass(slots=True)
class Report:
    """What a committed batch did; `verdicts` stand in the order of the tasks."""

    verdicts: list[Verdict]
    products: Mapping[str, Product] = field(default_factory=dict)
    orders: Mapping[str, Order] = field(default_factory=dict)
    carts: Mapping[str, Cart] = field(default_factory=dict)
    expired: int = 0
    outgoing: int = 0
    dead_letters: Sequence[DeadLetter] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


async def execute(
    pool: Pool,
    tasks: Sequence[Task],
    rules: Rules,
    now: datetime,
    *,
    progress: Sequence[PartitionProgress] = (),
    skip_locked: bool = False,
) -> Report:
    """Apply `tasks` in one transaction and return what became of them, after the commit.

    `progress` is recorded with them. `skip_locked` leaves out orders and carts that others are
    working on (for the sweeper). Contention is retried here, bounded. A database that cannot be
    reached raises (`storage.errors.is_unavailable`): the caller waits and tries again. An error that
    is in the data is narrowed down by halves until the culprit stands alone and is dead-lettered. A batch
    in which one expired hold uncovers the next shortage, and so on, is halved as well: one event needs
    two restarts at most.
    """
    try:
        return await _with_retries(pool, tasks, rules, now, progress, skip_locked=skip_locked)
    except Exception as error:
        if not (is_data(error) or isinstance(error, _TooManyRestarts)):
            raise
        if len(tasks) == 1:
            culprit = _culprit(tasks[0], now, error)
            if culprit is None:
                raise
            return await _with_retries(pool, [culprit], rules, now, progress, skip_locked=skip_locked)
        if is_data(error):
            logger.warning("A batch of %d failed for a reason in its data; looking for the culprit", len(tasks))
    half = len(tasks) // 2
    first = await execute(pool, tasks[:half], rules, now, skip_locked=skip_locked)
    second = await execute(pool, tasks[half:], rules, now, progress=progress, skip_locked=skip_locked)
    return _joined(first, second)


def _culprit(task: Task, now: datetime, error: Exception) -> Task | None:
    """Return the dead letter for a record that the database will not take; None if there is no record."""
    if task.record is None or task.command is None:
        return None
    cause = getattr(task.command, "cause", None)
    return Task(
        letter=build_dead_letter(
            task.record,
            "retries_exhausted",
            f"the database refused it: {error}",
            now,
            event_id=None if cause is None else cause.event_id,
            event_type=task.event_type,
            source=None if cause is None else cause.source,
            error=error,
        )
    )


def _joined(first: Report, second: Report) -> Report:
    return Report(
        first.verdicts + second.verdicts,
        {**first.products, **second.products},
        {**first.orders, **second.orders},
        {**first.carts, **second.carts},
        first.expired + second.expired,
        first.outgoing + second.outgoing,
        (*first.dead_letters, *second.dead_letters),
        {stage: seconds + second.seconds.get(stage, 0.0) for stage, seconds in first.seconds.items()},
    )


async def _with_retries(
    pool: Pool,
    tasks: Sequence[Task],
    rules: Rules,
    now: datetime,
    progress: Sequence[PartitionProgress],
    *,
    skip_locked: bool,
) -> Report:
    for attempt in range(MAX_CONTENTION_RETRIES + 1):
        try:
            async with pool.acquire() as connection:
                return await _transact(connection, tasks, rules, now, progress, skip_locked=skip_locked)
        except Exception as error:
            if not is_contention(error) or attempt == MAX_CONTENTION_RETRIES:
                raise
            logger.debug("Another worker was faster (%s); trying again", type(error).__name__)
            await asyncio.sleep(random.uniform(0, min(0.005 * 2**attempt, 0.5)))  # noqa: S311 - jitter
    raise AssertionError("unreachable")


async def _transact(
    connection: Connection,
    tasks: Sequence[Task],
    rules: Rules,
    now: datetime,
    progress: Sequence[PartitionProgress],
    *,
    skip_locked: bool,
) -> Report:
    """Run the transaction; start it over when holds that are due, or an order's own cart's, stand in somebody's way."""
    due = _Due()
    for _ in range(MAX_RESTARTS):
        transaction = connection.transaction()
        await transaction.start()
        try:
            batch = await _load(connection, tasks, due.expiries(), skip_locked=skip_locked)
            _fold(batch, tasks, rules, now)
            if not await _find_due_holds(connection, batch, due) and not await _missed_a_cart(connection, batch, tasks):
                await _save(connection, batch, progress)
                started = time.perf_counter()
                await transaction.commit()
                batch.seconds["commit"] = time.perf_counter() - started
                return batch.report()
        except BaseException:
            # After a COMMIT that failed there is nothing to roll back, and asyncpg says so with an error of its own:
            # the first one decides what happens next. The pool cleans what is left.
            with contextlib.suppress(Exception):
                await transaction.rollback()
            raise
        # The locks must be taken anew, in order, with the orders and carts that hold what is short.
        await transaction.rollback()
    raise _TooManyRestarts


class _TooManyRestarts(Exception):  # noqa: N818 - a way back to `execute`, not an error anybody sees
    """Expiring due holds did not come to an end."""


@dataclass(slots=True)
class _Due:
    """Holds that give way where a product is short: those found so far, due before `until`, and on which products."""

    until: datetime | None = None
    products: set[str] = field(default_factory=set)
    holds: set[DueHold] = field(default_factory=set)

    def expiries(self) -> dict[str, list[Expiry]]:
        """Return them by product, the oldest first; `domain.decide.step` sees which of them are on which."""
        until = self.until
        if until is None or not self.holds:
            return {}
        ordered: list[Expiry] = [
            ExpireOrder(hold.owner_id, until) if hold.kind == "order" else ExpireCart(hold.owner_id, until)
            for hold in sorted(self.holds)
        ]
        return dict.fromkeys(self.products, ordered)


@dataclass(slots=True)
class _Batch:
    """A transaction's working set, and what it will write."""

    state: State
    known: dict[EventKey, bytes]
    due: Mapping[str, Sequence[Expiry]]
    loaded_products: Mapping[str, Product]
    loaded_orders: Mapping[str, Order]
    loaded_carts: Mapping[str, Cart]
    verdicts: list[Verdict] = field(default_factory=list)
    products: set[str] = field(default_factory=set)
    orders: set[str] = field(default_factory=set)
    carts: set[str] = field(default_factory=set)
    ledger: list[LedgerEntry] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    inbox: dict[EventKey, InboxRow] = field(default_factory=dict)
    letters: list[DeadLetter] = field(default_factory=list)
    parked: dict[EventKey, ParkedEvent] = field(default_factory=dict)
    unparked: dict[EventKey, Settled | None] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)
    holds: set[DueHold] = field(default_factory=set)
    expired: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def report(self) -> Report:
        return Report(
            self.verdicts,
            {key: self.state.products[key] for key in self.products},
            {key: self.state.orders[key] for key in self.orders},
            {key: self.state.carts[key] for key in self.carts},
            self.expired,
            len(self.outbox),
            self.letters,
            self.seconds,
        )


# --- lock and load ------------------------------------------------------------------------------


async def _load(
    connection: Connection,
    tasks: Sequence[Task],
    due: Mapping[str, Sequence[Expiry]],
    *,
    skip_locked: bool,
) -> _Batch:
    """Lock and load what the tasks and the due holds touch: orders, carts, then products."""
    started = time.perf_counter()
    commands = [task.command for task in tasks if task.command is not None]
    expiries = {expiry for expiries in due.values() for expiry in expiries}
    known = await load.known_events(connection, [_key(cause) for cause in map(_cause, commands) if cause])
    order_ids = {
        *(command.order_id for command in commands if isinstance(command, _ORDER_COMMANDS)),
        *(expiry.order_id for expiry in expiries if isinstance(expiry, ExpireOrder)),
    }
    orders = await load.lock_orders(connection, order_ids, skip_locked=skip_locked)
    cart_ids = {
        *(command.cart_id for command in commands if isinstance(command, _CART_COMMANDS)),
        *(command.cart_id for command in commands if isinstance(command, CreateOrder) and command.cart_id),
        *(expiry.cart_id for expiry in expiries if isinstance(expiry, ExpireCart)),
    }
    carts = await load.lock_carts(connection, cart_ids, skip_locked=skip_locked)
    products = await load.lock_products(connection, _products_of(commands, orders.values(), carts.values()))
    for product in products.values():
        check_product(product)
    for order in orders.values():
        check_order(order)
    return _Batch(
        State(dict(products), dict(orders), dict(carts)),
        known,
        due,
        products,
        orders,
        carts,
        seconds={"load": time.perf_counter() - started},
    )


def _products_of(commands: Iterable[Command], orders: Iterable[Order], carts: Iterable[Cart]) -> set[str]:
    """Return every product that the commands can touch: their own and those of their orders and carts."""
    products: set[str] = set()
    for command in commands:
        lines = getattr(command, "lines", None)
        if lines:
            products.update(lines)
        product_id = getattr(command, "product_id", None)
        if product_id is not None:
            products.add(product_id)
    for order in orders:
        products.update(order.lines)
        for fact in order.waiting:
            products.update(fact.lines or ())
    for cart in carts:
        products.update(cart.held)
    return products


async def _find_due_holds(connection: Connection, batch: _Batch, due: _Due) -> bool:
    """Add the due holds on the products that turned out short; says whether that can change what the batch decides.

    Holds that the batch itself makes count too, also on a product that was asked for before: were the batch cut
    between such a hold and the shortage, it would be in the tables.
    """
    if not batch.short:
        return False
    if due.until is None:
        due.until = await load.low_watermark(connection)
    until = due.until
    if until is None:
        return False
    known = len(due.holds)
    new = batch.short - due.products
    if new:
        due.products |= new
        due.holds.update(await load.due_on_products(connection, new, until, MAX_DUE_HOLDS))
    due.holds.update(hold for hold in batch.holds if hold.expires_at < until)
    return len(due.holds) > known or bool(new and due.holds)


async def _missed_a_cart(connection: Connection, batch: _Batch, tasks: Sequence[Task]) -> bool:
    """Tell whether an order was found short while its own cart, which nobody could lock yet, came to hold the stock.

    A cart that another worker makes between our look at the carts and our lock on the products stands in the products,
    but not in the state. An order that is accepted writes its cart and so collides; one that is refused writes none.
    """
    if not batch.short:
        return False
    named = {task.command.cart_id for task in tasks if isinstance(task.command, CreateOrder) and task.command.cart_id}
    unknown = named - batch.state.carts.keys()
    return bool(unknown) and await load.any_cart(connection, unknown)


# --- decide -------------------------------------------------------------------------------------


def _fold(batch: _Batch, tasks: Sequence[Task], rules: Rules, now: datetime) -> None:
    """Decide every task in turn, each on the state that the ones before it left."""
    started = time.perf_counter()
    for task in tasks:
        batch.verdicts.append(_judge(batch, task, rules, now))
    batch.seconds["decide"] = time.perf_counter() - started


def _judge(batch: _Batch, task: Task, rules: Rules, now: datetime) -> Verdict:
    if task.letter is not None:
        batch.letters.append(task.letter)
        return Verdict("dead_lettered", task.letter.reason, task.letter.message)
    command = task.command
    if command is None:
        raise AssertionError("a task is a command or a dead letter")
    cause = _cause(command)
    key = None if cause is None else _key(cause)
    if key is not None:
        digest = batch.known.get(key)
        if digest is not None:
            return _judge_repeat(batch, task, digest, now)
    decision = _decide(batch, command, rules)
    if decision.disposition is Disposition.CONFLICT:
        return _give_up(batch, task, "conflict", decision.message or "", now)
    if isinstance(command, ForgetFact):
        if decision.disposition is Disposition.APPLIED:
            return _give_up_parked(batch, task, command, now)
    elif key is not None:
        batch.known[key] = task.digest
        batch.inbox[key] = InboxRow(key[1], key[0], task.digest, decision.disposition.value, _text(decision.reason))
        if decision.disposition is Disposition.PARKED:
            _park(batch, task, key, rules, now)
    return Verdict(decision.disposition.value, _text(decision.reason), decision.message)


def _decide(batch: _Batch, command: Command, rules: Rules) -> Decision:
    """Run the rules and take down what they changed and what they told; returns the command's own decision."""
    decision = None
    for decision in step(batch.state, command, rules.policy, batch.due):
        batch.products.update(decision.products)
        order, cart = decision.order, decision.cart
        if order is not None:
            batch.orders.add(order.order_id)
            if order.expires_at is not None:
                batch.holds.add(DueHold(order.expires_at, "order", order.order_id))
        if cart is not None:
            batch.carts.add(cart.cart_id)
            if cart.expires_at is not None:
                batch.holds.add(DueHold(cart.expires_at, "cart", cart.cart_id))
        batch.ledger.extend(decision.entries)
        for outcome in decision.outcomes:
            batch.outbox.append(outbox_row(outcome))
        for settled in decision.settled:
            _settle(batch, settled)
        batch.short.update(decision.short)
        batch.expired += 1
    if decision is None:
        raise AssertionError("the rules decided nothing")
    if not (isinstance(command, ExpireOrder | ExpireCart) and decision.disposition is Disposition.APPLIED):
        batch.expired -= 1
    return decision


def _judge_repeat(batch: _Batch, task: Task, digest: bytes, now: datetime) -> Verdict:
    """Suppress an event that was judged before; the same id with other content is a producer's bug."""
    if digest == task.digest or task.record is None:
        return Verdict("duplicate")
    message = "another event with this id and source was received before, with other content"
    return _give_up(batch, task, "id_reused", message, now)


def _give_up(batch: _Batch, task: Task, reason: str, message: str, now: datetime) -> Verdict:
    """Make a dead letter of an event that was read well; its id stays out of the inbox."""
    cause = None if task.command is None else _cause(task.command)
    if task.record is not None and cause is not None:
        batch.letters.append(
            build_dead_letter(
                task.record,
                reason,
                message,
                now,
                event_id=cause.event_id,
                event_type=task.event_type,
                source=cause.source,
            )
        )
    return Verdict("dead_lettered", reason, message)


def _park(batch: _Batch, task: Task, key: EventKey, rules: Rules, now: datetime) -> None:
    """Keep the record of an event that waits for its order."""
    if task.record is None or not isinstance(task.command, _ORDER_COMMANDS):
        raise AssertionError("only an order's events from Kafka can wait")
    batch.parked[key] = ParkedEvent(
        key[0],
        key[1],
        task.command.order_id,
        task.event_type,
        task.record,
        now,
        now + rules.parked_event_ttl,
    )


def _settle(batch: _Batch, settled: Settled) -> None:
    """Note what became of an event that had waited, in this batch or since an earlier one."""
    key = _key(settled.cause)
    row = batch.inbox.get(key)
    if batch.parked.pop(key, None) is not None and row is not None:
        batch.inbox[key] = row._replace(outcome=settled.disposition.value, reason=_text(settled.reason))
    else:
        batch.unparked[key] = settled


def _give_up_parked(batch: _Batch, task: Task, command: ForgetFact, now: datetime) -> Verdict:
    """Make a dead letter of an event whose order never came, and forget that it was received."""
    if task.record is None:
        raise AssertionError("an overdue event comes with its record")
    message = f"waited for order {command.order_id} until its deadline; the order never came or was never paid"
    batch.letters.append(
        build_dead_letter(
            task.record,
            "deadline_expired",
            message,
            now,
            event_id=command.event_id,
            event_type=task.event_type,
            source=command.source,
        )
    )
    batch.unparked[command.source, command.event_id] = None
    return Verdict("dead_lettered", "deadline_expired", message)


# --- save ---------------------------------------------------------------------------------------


async def _save(connection: Connection, batch: _Batch, progress: Sequence[PartitionProgress]) -> None:
    """Write everything, a statement a table; only what has rows is written."""
    started = time.perf_counter()
    state = batch.state
    products = [state.products[key] for key in batch.products]
    for product in products:
        check_product(product)
    orders = [state.orders[key] for key in batch.orders]
    for order in orders:
        check_order(order)
    carts = [state.carts[key] for key in batch.carts]
    if products:
        await save.save_products(connection, products, batch.products - batch.loaded_products.keys())
    if orders:
        await save.save_orders(connection, orders, batch.orders - batch.loaded_orders.keys())
    if carts:
        await save.save_carts(connection, carts, batch.carts - batch.loaded_carts.keys())
    await save.append_ledger(connection, batch.ledger)
    await save.append_inbox(connection, batch.inbox.values())
    await dead_letters.park(connection, batch.parked.values())
    if batch.unparked:
        await dead_letters.unpark(connection, batch.unparked)
        settled = [(key, fact.disposition.value, _text(fact.reason)) for key, fact in batch.unparked.items() if fact]
        await save.settle_inbox(connection, settled)
        await save.forget_events(connection, [key for key, fact in batch.unparked.items() if fact is None])
    await dead_letters.append_dead_letters(connection, batch.letters)
    await save.append_outbox(connection, batch.outbox)
    await save.save_progress(connection, progress)
    batch.seconds["save"] = time.perf_counter() - started


def _cause(command: Command) -> Cause | None:
    """Return the event behind a command; expiries and forgotten facts have none."""
    return getattr(command, "cause", None)


def _key(cause: Cause) -> EventKey:
    return (cause.source, cause.event_id)


def _text(reason: Reason | None) -> str | None:
    return None if reason is None else reason.value
