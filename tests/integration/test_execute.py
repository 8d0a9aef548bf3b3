"""The one transaction on a real database: what is received, parked and dead-lettered, and what errors do."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from domain.commands import AdjustStock, ExpireOrder
from domain.model import Cause, Operation
from engine import execute as execute_module
from engine.execute import execute
from engine.tasks import ExpiryTask, command_task
from storage import load, save
from storage.database import Connection
from storage.errors import ContentionPersistsError, is_unavailable
from storage.save import PartitionProgress
from tests.integration.shop import (
    POLICY,
    T0,
    Shop,
    adjusted,
    cancelled,
    cart,
    created,
    event,
    items,
    paid,
    picture,
    problems,
    product,
    refunded,
    task,
)
from workers.sweeper import Sweeper

RESERVATION = "inventory.reservation."


async def test_a_repeat_within_a_batch_counts_once(shop: Shop) -> None:
    """The same event twice in one batch moves stock once."""
    await shop.apply(product("p", 10))
    outcomes = await shop.apply(adjusted("p", "ADD", 5), adjusted("p", "ADD", 5))
    assert ["applied", "duplicate"] == outcomes
    assert (15, 0) == await shop.stock("p")


async def test_a_repeat_in_a_later_batch_counts_once(shop: Shop) -> None:
    """The same event in two batches moves stock once."""
    await shop.apply(product("p", 10))
    await shop.apply(adjusted("p", "ADD", 5))
    assert ["duplicate"] == await shop.apply(adjusted("p", "ADD", 5))
    assert (15, 0) == await shop.stock("p")


async def test_an_id_with_other_content_is_a_dead_letter(shop: Shop) -> None:
    """An id that returns with other content is dead-lettered, within and across batches, and changes nothing."""
    await shop.apply(product("p", 10))
    first, other = adjusted("p", "ADD", 5), adjusted("p", "ADD", 6)
    assert ["applied", "dead_lettered"] == await shop.apply(first, other)
    assert ["dead_lettered", "duplicate"] == await shop.apply(other, first)
    assert (15, 0) == await shop.stock("p")
    assert [("id_reused", "adjusted")] * 2 == await shop.rows("SELECT reason, event_id FROM dead_letters")


async def test_the_same_id_from_another_source_is_another_event(shop: Shop) -> None:
    """Identity is source and id, not the id alone."""
    await shop.apply(product("p", 10))
    elsewhere = adjusted("p", "ADD", 5) | {"source": "warehouse"}
    assert ["applied", "applied"] == await shop.apply(adjusted("p", "ADD", 5), elsewhere)
    assert (20, 0) == await shop.stock("p")


async def test_an_order_created_again_with_other_lines_is_a_conflict(shop: Shop) -> None:
    """A second creation with other lines is a dead letter whose id is not remembered, so that its replay is judged."""
    await shop.apply(product("p", 10), created("o", {"p": 1}))
    other = created("o", {"p": 2}) | {"id": "again"}
    assert ["dead_lettered"] == await shop.apply(other)
    assert [("conflict",)] == await shop.rows("SELECT reason FROM dead_letters")
    assert [] == await shop.rows("SELECT event_id FROM inbox WHERE event_id = 'again'")
    assert ["duplicate"] == await shop.apply(created("o", {"p": 1}) | {"id": "yet-another"})


async def test_an_early_payment_waits_and_is_resolved(shop: Shop) -> None:
    """A payment before its order is parked with its record; the order's creation settles it."""
    await shop.apply(product("p", 10))
    assert ["parked", "duplicate"] == await shop.apply(paid("o"), paid("o"))
    assert ["duplicate"] == await shop.apply(paid("o"))
    assert [("paid-o",)] == await shop.rows("SELECT event_id FROM parked_events")
    assert ["applied"] == await shop.apply(created("o", {"p": 3}))
    assert (7, 0) == await shop.stock("p")
    assert [] == await shop.rows("SELECT event_id FROM parked_events")
    assert [("applied",)] == await shop.rows("SELECT outcome FROM inbox WHERE event_id = 'paid-o'")


async def test_a_fact_parked_and_resolved_in_one_batch_leaves_nothing_parked(shop: Shop) -> None:
    """Early and its order in one batch: the inbox has the outcome, no row waits."""
    await shop.apply(product("p", 10))
    await shop.apply(cancelled("o"), paid("o"), created("o", {"p": 3}))
    assert (10, 0) == await shop.stock("p")
    assert [] == await shop.rows("SELECT event_id FROM parked_events")
    assert [] == await shop.rows("SELECT event_id FROM inbox WHERE outcome = 'parked'")


async def test_an_early_refund_waits_for_creation_and_payment(shop: Shop) -> None:
    """A refund first, then creation, then payment: applied with the payment and not before."""
    await shop.apply(product("p", 10))
    assert ["parked"] == await shop.apply(refunded("o", {"p": 1}))
    await shop.apply(created("o", {"p": 3}))
    assert [("refunded-o",)] == await shop.rows("SELECT event_id FROM parked_events")
    await shop.apply(paid("o"))
    assert (8, 0) == await shop.stock("p")
    assert [] == await shop.rows("SELECT event_id FROM parked_events")
    outgoing = [type_.removeprefix(RESERVATION) for type_, key in await shop.outgoing() if key == "o"]
    assert ["reserved", "deducted", "restocked"] == outgoing


async def test_what_is_told_carries_the_trace_of_its_own_cause(shop: Shop) -> None:
    """Not that of the event beside it: a refund that waited keeps its own, a hold that gave way has none."""
    traces = {name: f"00-{number:032x}-{number:016x}-01" for number, name in enumerate(("refund", "order", "paid"), 1)}
    asked = {
        "refund": refunded("o", {"p": 1}),
        "order": created("o", {"p": 2}, minutes=60),
        "paid": paid("o", minutes=61),
    }
    await shop.apply(product("p", 2), cart("c", {"p": 1}, minutes=-60))
    await shop.read_up_to(T0)
    for name, published in asked.items():
        await shop.run([task(published, [("traceparent", traces[name].encode())])])
    rows = await shop.pool.fetch(
        "SELECT type, headers ->> 'traceparent' AS trace FROM outbox"
        " WHERE type LIKE 'inventory.reservation.%' ORDER BY position"
    )
    assert [
        ("inventory.reservation.expired", None),
        ("inventory.reservation.reserved", traces["order"]),
        ("inventory.reservation.deducted", traces["paid"]),
        ("inventory.reservation.restocked", traces["refund"]),
    ] == [tuple(row) for row in rows]


async def test_an_overdue_fact_becomes_a_dead_letter_and_its_replay_works(shop: Shop) -> None:
    """Past its deadline by the stream's clock a parked event dies with its record, and its replay is judged anew."""
    await shop.apply(product("p", 10))
    early = task(paid("o"), headers=[("a\x00b", None), ("raw", b"\xff\x00")])
    assert ["parked"] == [verdict.disposition for verdict in (await shop.run([early])).verdicts]
    sweeper = Sweeper(shop.pool, POLICY, 1, lambda: T0, lambda _report: None)
    await shop.read_up_to(T0 + POLICY.parked_event_ttl)
    assert (0, 0) == await sweeper.run_once()
    await shop.read_up_to(T0 + POLICY.parked_event_ttl + timedelta(seconds=1))
    assert (0, 1) == await sweeper.run_once()
    assert (0, 0) == await sweeper.run_once()
    (dead_letter,) = await shop.rows("SELECT reason, event_id, value, headers::text FROM dead_letters")
    assert ("deadline_expired", "paid-o", early.record.value) == dead_letter[:3]
    assert '[["a\\u0000b",null],["raw","/wA="]]' == dead_letter[3]
    assert [] == await shop.rows("SELECT event_id FROM inbox WHERE event_id = 'paid-o'")
    assert ["applied", "applied"] == await shop.apply(created("o", {"p": 3}), paid("o"))
    assert (7, 0) == await shop.stock("p")


async def test_skip_locked_leaves_out_what_others_work_on(shop: Shop) -> None:
    """A sweep does not wait for an order that another transaction has locked, and expires the others."""
    await shop.apply(product("p", 5), product("q", 5))
    await shop.apply(created("held", {"p": 1}, minutes=-60), created("free", {"q": 1}, minutes=-60))
    async with shop.pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM orders WHERE order_id = 'held' FOR UPDATE")
        tasks = [ExpiryTask(ExpireOrder(order_id, T0)) for order_id in ("held", "free")]
        async with asyncio.timeout(5):
            report = await shop.run(tasks, skip_locked=True)
    assert ["duplicate", "applied"] == [verdict.disposition for verdict in report.verdicts]
    assert ("reserved", "expired") == (await shop.status("held"), await shop.status("free"))


@pytest.mark.parametrize("culprit_at", [0, 3, 6])
async def test_a_value_that_the_database_refuses_stands_alone(shop: Shop, culprit_at: int) -> None:
    """The event that the database refuses becomes a dead letter; its neighbours and the progress are kept."""
    await shop.pool.execute("ALTER TABLE orders ADD CONSTRAINT ck_test CHECK (order_id <> 'bad')")
    await shop.apply(product("p", 100))
    names = [f"o{number}" for number in range(6)]
    names.insert(culprit_at, "bad")
    tasks = [task(created(name, {"p": 1})) for name in names]
    progress = [PartitionProgress("order.created", 0, 77, T0)]
    report = await execute(shop.pool, tasks, POLICY, T0, progress=progress)
    expected = ["dead_lettered" if name == "bad" else "applied" for name in names]
    assert expected == [verdict.disposition for verdict in report.verdicts]
    assert [("retries_exhausted", "created-bad")] == await shop.rows("SELECT reason, event_id FROM dead_letters")
    assert (100, 6) == await shop.stock("p")
    assert [] == await shop.rows("SELECT event_id FROM inbox WHERE event_id = 'created-bad'")
    assert [(77,)] == await shop.rows("SELECT next_offset FROM stream_progress")
    assert [] == await problems(shop.pool)


async def test_an_error_that_is_no_records_fault_is_raised(shop: Shop) -> None:
    """A command without a record cannot become a dead letter, so its error is the caller's."""
    await shop.apply(product("p", 10))
    too_much = AdjustStock(Cause("cli", "1", T0), "p", Operation.ADD, 2**63)
    with pytest.raises((asyncpg.DataError, OverflowError)):
        await shop.run([command_task(too_much)])
    assert (10, 0) == await shop.stock("p")


async def test_contention_is_retried(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that others overtook is tried again, and counts once."""
    await shop.apply(product("p", 10))
    failures = [asyncpg.DeadlockDetectedError("d"), asyncpg.SerializationError("s"), asyncpg.UniqueViolationError("u")]
    monkeypatch.setattr(save, "append_inbox", _failing(save.append_inbox, failures))
    assert ["applied"] == await shop.apply(created("o", {"p": 1}))
    assert [] == failures
    assert (10, 1) == await shop.stock("p")


async def test_contention_without_end_is_raised(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The retries are bounded; then the caller waits, as for a database that is away, and knows why."""
    monkeypatch.setattr(execute_module, "MAX_CONTENTION_RETRIES", 3)
    failures: list[Exception] = [asyncpg.DeadlockDetectedError("d") for _ in range(9)]
    monkeypatch.setattr(save, "append_inbox", _failing(save.append_inbox, failures))
    with pytest.raises(ContentionPersistsError, match="another transaction is in the way: d") as caught:
        await shop.apply(product("p", 1))
    assert (5, True) == (len(failures), is_unavailable(caught.value))


async def test_a_database_that_is_away_is_the_callers_to_wait_for(shop: Shop) -> None:
    """A connection that the server ends in the middle is said to be unavailability, whatever asyncpg calls it."""

    async def end_it(connection: Connection) -> None:
        async with asyncio.timeout(5):
            await shop.pool.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())

    for place in ("lock_products", "low_watermark"):
        caught = await _error_when(shop, place, end_it)
        assert is_unavailable(caught), (place, caught)


async def test_an_error_in_progress_alone_is_raised(shop: Shop) -> None:
    """A batch without tasks has no culprit and cannot be halved."""
    progress = [PartitionProgress("order.created", 2**40, 1, T0)]
    with pytest.raises((asyncpg.DataError, OverflowError)):
        await execute(shop.pool, [], POLICY, T0, progress=progress)


async def test_progress_never_goes_back(shop: Shop) -> None:
    """Neither offset nor watermark of a partition goes back, each by itself; an empty batch can bring progress."""
    for offset, minutes in ((10, 9), (12, 5), (8, 1)):
        progress = [PartitionProgress("order.created", 3, offset, T0 + timedelta(minutes=minutes))]
        await execute(shop.pool, [], POLICY, T0, progress=progress)
    row = "SELECT next_offset, watermark FROM stream_progress WHERE partition = 3"
    assert [(12, T0 + timedelta(minutes=9))] == await shop.rows(row)


async def test_a_watermark_never_passes_the_databases_clock(shop: Shop) -> None:
    """A worker whose clock is fast cannot write one that is ahead, and one that is ahead comes back."""
    until = "SELECT watermark, watermark <= clock_timestamp() FROM stream_progress"
    ahead, read = datetime.now(UTC) + timedelta(hours=1), T0 + timedelta(minutes=1)
    await execute(shop.pool, [], POLICY, T0, progress=[PartitionProgress("order.created", 0, 1, ahead)])
    ((first, in_time),) = await shop.rows(until)
    assert in_time
    assert datetime.now(UTC) - first < timedelta(minutes=1)
    await shop.read_up_to(ahead)
    await execute(shop.pool, [], POLICY, T0, progress=[PartitionProgress("order.created", 0, 1, read)])
    assert [(read, True)] == await shop.rows(until)


async def test_the_ledger_takes_entries_and_nothing_else(shop: Shop) -> None:
    """Entries of the ledger can be neither changed nor removed, not even by TRUNCATE."""
    await shop.apply(product("p", 10))
    before = await picture(shop.pool)
    for statement in (
        "UPDATE inventory_transactions SET quantity = 1",
        "DELETE FROM inventory_transactions",
        "TRUNCATE inventory_transactions",
    ):
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await shop.pool.execute(statement)
    assert before == await picture(shop.pool)


async def test_the_database_itself_refuses_to_oversell(shop: Shop) -> None:
    """More reserved than on hand cannot be written, whoever writes."""
    await shop.apply(product("p", 10))
    for statement in (
        "UPDATE inventory SET reserved = 11",
        "UPDATE inventory SET reserved = -1",
        "UPDATE inventory SET on_hand = -1",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await shop.pool.execute(statement)


async def test_a_line_named_twice_is_summed(shop: Shop) -> None:
    """Lines that repeat a product are one line of their sum."""
    await shop.apply(product("p", 10))
    lines = [*items(p=2), *items(p=3)]
    await shop.apply(event("order.created", "twice", order_id="o", items=lines))
    assert (10, 5) == await shop.stock("p")


def _failing(function: Callable[..., Awaitable[Any]], failures: list[Any]) -> Callable[..., Awaitable[Any]]:
    """Return the function behind failures that are used up one a call."""

    async def call(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return await function(*args)

    return call


async def _error_when(shop: Shop, place: str, act: Callable[[Connection], Awaitable[None]]) -> BaseException:
    """Run a batch that is short of stock, do something to its connection at `place`, and return what it raises."""
    original = getattr(load, place)

    async def acting(connection: Connection, *args: Any, **options: Any) -> Any:
        await act(connection)
        return await original(connection, *args, **options)

    await shop.apply(product(f"for-{place}", 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, place, acting)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - which it is, is what the caller asks
            await shop.apply(created(f"o-{place}", {f"for-{place}": 2}))
    return caught.value
