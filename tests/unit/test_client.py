"""The worker's Kafka client on aiokafka's own fetcher: when it fetches, and what it returns of the responses."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import TopicAuthorizationFailedError

from tests.unit.fetches import ORDERS, PAYMENTS, Broker, Record, State, records_at
from workers.consuming import client as client_module
from workers.consuming.batches import merge_by_timestamp
from workers.consuming.client import RECORDS_PER_TURN, RecordClient, Records


@pytest.fixture
def broker() -> Broker:
    """Two partitions without records."""
    return Broker()


@pytest.fixture
async def client(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RecordClient]:
    """A client that was never started, on a fetcher without a connection."""
    subscription = SimpleNamespace(
        reassignment_in_progress=False,
        is_assigned=lambda place: place in broker.states,
        assigned_partitions=lambda: frozenset(broker.states),
        fetch_context=contextlib.nullcontext,
        pause=lambda place: setattr(broker.states[place], "paused", True),
        resume=lambda place: setattr(broker.states[place], "paused", False),
        seek=lambda place, offset: broker.states[place].consumed_to(offset),
        subscription=SimpleNamespace(assignment=SimpleNamespace(state_value=lambda place: broker.states[place])),
    )
    fetcher = Fetcher.__new__(Fetcher)
    fetcher.__dict__.update(
        _subscriptions=subscription,
        _wait_consume_future=None,
        _records=broker.fetched,
        _fetch_waiters=broker.waiting,
        _loop=asyncio.get_running_loop(),
        _closed=False,
    )
    client = RecordClient(broker.batch_done, broker.out_of_range)
    with monkeypatch.context() as patch:
        patch.setattr(client, "_fetcher", fetcher)
        patch.setattr(client, "_subscription", subscription)
        patch.setattr(client, "_coordinator", SimpleNamespace(check_errors=lambda: None))
        yield client
    await client.stop()


async def test_nothing_is_fetched_while_a_batch_of_a_steady_stream_is_applied(
    broker: Broker, client: RecordClient
) -> None:
    """After a batch that emptied the topics, the next fetch waits until the batch is applied."""
    broker.answer(ORDERS, *records_at(ORDERS, 0, 1))
    assert {ORDERS: [0, 1]} == _offsets(await _take(client))
    assert (2, None) == (broker.paused, client.poll_age())
    asyncio.get_running_loop().call_later(0.02, broker.answer, ORDERS, *records_at(ORDERS, 2))
    assert {ORDERS: [2]} == _offsets(await _take(client))
    assert ["batch done, 2 paused"] == broker.calls


async def test_a_backlog_is_fetched_ahead(broker: Broker, client: RecordClient) -> None:
    """Where one partition has more, the next batch is fetched while this one is applied."""
    broker.answer(ORDERS, *records_at(ORDERS, 0), end=9)
    broker.answer(PAYMENTS, *records_at(PAYMENTS, 0))
    await _take(client)
    assert (0, []) == (broker.paused, broker.calls)
    assert client.poll_age() is not None


async def test_control_records_and_open_transactions_are_no_backlog(broker: Broker, client: RecordClient) -> None:
    """Records of an open transaction cannot be read yet, and a commit marker is no record."""
    broker.answer(ORDERS, *records_at(ORDERS, 0))
    broker.states[ORDERS].highwater = 9
    await _take(client)
    assert 2 == broker.paused


async def test_it_never_returns_without_records(broker: Broker, client: RecordClient) -> None:
    """FastStream sleeps after an empty fetch, and records that arrive meanwhile wait."""
    taking = asyncio.create_task(client.getmany(timeout_ms=1, max_records=10))
    await asyncio.sleep(0.05)
    assert not taking.done()
    broker.answer(ORDERS, *records_at(ORDERS, 0))
    assert [ORDERS] == list(await taking)


async def test_revoked_partitions_are_left_alone(broker: Broker, client: RecordClient) -> None:
    """Kafka's client raises for a partition that is not assigned, and that would end the consumer."""
    broker.answer(ORDERS, *records_at(ORDERS, 0))
    await _take(client)
    del broker.states[PAYMENTS]
    asyncio.get_running_loop().call_later(0.02, broker.answer, ORDERS, *records_at(ORDERS, 1))
    assert {ORDERS: [1]} == _offsets(await _take(client))


async def test_once_suspended_it_stays_suspended(broker: Broker, client: RecordClient) -> None:
    """The end of the batch in flight resumes nothing."""
    broker.answer(ORDERS, *records_at(ORDERS, 0))
    await _take(client)
    client.suspend()
    broker.answer(ORDERS, *records_at(ORDERS, 1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.getmany(timeout_ms=1, max_records=10), 0.05)
    assert 2 == broker.paused


async def test_partitions_assigned_after_a_suspension_are_suspended(broker: Broker, client: RecordClient) -> None:
    """A rebalance resumes nothing, and without a suspension nothing is paused."""
    client.keep_suspended()
    assert 0 == broker.paused
    client.suspend()
    broker.states[ORDERS], broker.states[TopicPartition("order.created", 1)] = State(), State()
    client.keep_suspended()
    assert 3 == broker.paused


async def test_a_batch_is_put_back_to_its_first_records(client: RecordClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each partition that is still assigned goes back to the first record of the batch, whatever came between."""
    sought: list[tuple[TopicPartition, int]] = []
    monkeypatch.setattr(client, "seek", lambda partition, offset: sought.append((partition, offset)))
    refunds = TopicPartition("payment.refunded", 0)
    batch = [*records_at(ORDERS, 3), *records_at(PAYMENTS, 7, 8), *records_at(refunds, 1), *records_at(ORDERS, 4, 5)]
    client.put_back(batch)
    assert [(ORDERS, 3), (PAYMENTS, 7)] == sought


async def test_a_fetch_ages_while_it_is_unanswered(broker: Broker, client: RecordClient) -> None:
    """The newest response of all partitions counts; before the first one there is no age."""
    assert client.poll_age() is None
    now = time.time()
    broker.states[ORDERS].timestamp = round((now - 500) * 1000)
    broker.states[PAYMENTS].timestamp = round((now - 400) * 1000)
    age = client.poll_age()
    assert age is not None
    assert 0 <= age < 100  # the fetch began with this test, long after the last response


async def test_a_backlog_is_read_by_the_time_of_its_records(broker: Broker, client: RecordClient) -> None:
    """After an outage payments are not read long before their orders, in whatever order the responses arrive."""
    broker.answer(PAYMENTS, *records_at(PAYMENTS, *range(300), at=range(300)), end=1000)
    broker.answer(ORDERS, *records_at(ORDERS, *range(300), at=range(300)), end=1000)
    taken = {ORDERS: 0, PAYMENTS: 0}
    for _ in range(4):
        found = _offsets(await _take(client, 100))
        assert 100 == sum(map(len, found.values()))
        for place, offsets in found.items():
            assert offsets == list(range(taken[place], taken[place] + len(offsets)))
            taken[place] += len(offsets)
        assert abs(taken[ORDERS] - taken[PAYMENTS]) <= 2 * RECORDS_PER_TURN


@pytest.mark.parametrize("part", ["value", "headers"])
async def test_a_batch_is_bounded_by_its_decoded_bytes(
    broker: Broker, client: RecordClient, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Records that were compressed to a fiftieth do not fill the memory: the batch is complete after its bytes."""
    monkeypatch.setattr(client_module, "MAX_BATCH_BYTES", 20_000)
    large = b"0" * 1000
    content = {"value": large} if part == "value" else {"headers": (("padding", large),)}
    records = [dataclasses.replace(record, **content) for record in records_at(ORDERS, *range(100))]
    broker.answer(ORDERS, *records)
    sizes = [len((await _take(client))[ORDERS]) for _ in range(4)]
    assert [2 * RECORDS_PER_TURN] * 3 + [100 - 6 * RECORDS_PER_TURN] == sizes


async def test_a_producer_whose_clock_is_ahead_does_not_come_last(broker: Broker, client: RecordClient) -> None:
    """Its records count as if they were written now."""
    tomorrow, now = int(time.time() * 1000) + 86_400_000, int(time.time() * 1000)
    broker.answer(ORDERS, *records_at(ORDERS, *range(100), at=range(tomorrow, tomorrow + 100)), end=1000)
    broker.answer(PAYMENTS, *records_at(PAYMENTS, *range(300), at=range(now, now + 300)), end=1000)
    found = _offsets(await _take(client, 4 * RECORDS_PER_TURN))
    assert len(found[ORDERS]) > RECORDS_PER_TURN


@pytest.mark.parametrize("first", [ORDERS, PAYMENTS])
async def test_an_unreadable_record_loses_no_other(
    broker: Broker, client: RecordClient, first: TopicPartition, caplog: pytest.LogCaptureFixture
) -> None:
    """An unsupported compression holds back its own partition; the records of all others are returned."""
    broker.answer(first, *records_at(first, 0), end=9)
    for place in (first, ORDERS, PAYMENTS):
        broker.fetched.pop(place, None)
        broker.answer(place, *records_at(place, *range(5)), end=9, then_fails=place is PAYMENTS)
    found = _offsets(await _take(client))
    assert list(range(5)) == found[ORDERS]
    assert broker.states[PAYMENTS].position == len(found.get(PAYMENTS, ()))
    assert "zstd" in caplog.text


async def test_an_unreadable_record_loses_no_other_while_the_client_waits(broker: Broker, client: RecordClient) -> None:
    """While waiting, one record is taken at a time, so an error can lose none that was taken with it."""
    taking = asyncio.create_task(client.getmany(timeout_ms=60_000, max_records=100))
    await asyncio.sleep(0.02)
    broker.answer(ORDERS, *records_at(ORDERS, *range(5)))
    broker.answer(PAYMENTS, *records_at(PAYMENTS, 0), then_fails=True)
    (waiter,) = broker.waiting
    waiter.set_result(None)
    assert list(range(5)) == _offsets(await taking)[ORDERS]


async def test_a_topic_without_permission_stops_no_other(broker: Broker, client: RecordClient) -> None:
    """Its error comes with each response, and its partition always is the furthest behind."""
    for start in range(0, 30, 10):
        broker.refuse(PAYMENTS)
        broker.answer(ORDERS, *records_at(ORDERS, *range(start, start + 10)), end=1000)
        assert {ORDERS: list(range(start, start + 10))} == _offsets(await _take(client, 10))


async def test_it_waits_while_there_are_only_errors(
    broker: Broker, client: RecordClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It neither spins nor floods the log, and goes on when it can."""
    monkeypatch.setattr(client_module, "RETRY_SECONDS", 0.02)
    errors = 0

    def refuse() -> None:
        nonlocal errors
        errors += 1
        raise TopicAuthorizationFailedError("order.created")

    monkeypatch.setattr(client, "_coordinator", SimpleNamespace(check_errors=refuse))
    taking = asyncio.create_task(client.getmany(timeout_ms=1, max_records=10))
    await asyncio.sleep(0.1)
    assert 2 <= errors <= 10
    assert 1 == len(caplog.records)
    monkeypatch.setattr(client, "_coordinator", SimpleNamespace(check_errors=lambda: None))
    broker.answer(ORDERS, *records_at(ORDERS, 0))
    assert {ORDERS: [0]} == _offsets(await taking)


async def test_records_that_kafka_deleted_are_not_passed_over_in_silence(broker: Broker, client: RecordClient) -> None:
    """Other partitions' records come first; then the consumer decides where to go on."""
    broker.lose(ORDERS, 7)
    broker.answer(PAYMENTS, *records_at(PAYMENTS, 0))
    assert {PAYMENTS: [0]} == _offsets(await _take(client))
    assert {ORDERS: [107]} == _offsets(await _take(client))
    assert "out of range: [7]" in broker.calls


async def test_a_held_assignment_is_not_read(broker: Broker, client: RecordClient) -> None:
    """Neither a fetch that becomes due nor the end of a batch resumes it; it starts where it is placed."""
    client.hold()
    assert {} == await client.known_positions()
    client._fetching_since = None  # noqa: SLF001 - as after a batch
    taking = asyncio.create_task(_take(client))
    await asyncio.sleep(0.02)
    assert 2 == broker.paused
    client.start_at({ORDERS: 40, PAYMENTS: 50})
    assert (0, [40, 50]) == (broker.paused, [state.position for state in broker.states.values()])
    broker.answer(ORDERS, *records_at(ORDERS, 40))
    assert {ORDERS: [40]} == _offsets(await taking)


def test_partitions_are_merged_by_time_and_each_keeps_its_order() -> None:
    """An order and its payment in one batch are applied in the order in which they happened."""
    orders = records_at(ORDERS, 0, 1, 2, at=(10, 30, 20))
    payments = records_at(PAYMENTS, 0, 1, at=(15, 40))
    merged = merge_by_timestamp([*payments, *orders])
    assert [(10, 0), (15, 0), (30, 1), (20, 2), (40, 1)] == [(one.timestamp, one.offset) for one in merged]
    assert orders == merge_by_timestamp(orders)
    assert [] == merge_by_timestamp([])


async def _take(client: RecordClient, max_records: int = 100) -> dict[TopicPartition, list[Record]]:
    async with asyncio.timeout(10):
        return await client.getmany(timeout_ms=5, max_records=max_records)


def _offsets(found: dict[TopicPartition, list[Record]]) -> dict[TopicPartition, list[int]]:
    return {place: [record.offset for record in records] for place, records in found.items()}


async def test_positions_leave_out_what_is_revoked_meanwhile(
    broker: Broker, client: RecordClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A position may have to be waited for, and a rebalance happen in the meantime."""
    position, asked = RecordClient.position, []

    async def revoked_meanwhile(client: RecordClient, partition: TopicPartition) -> int:
        found: int = await position(client, partition)
        asked.append(partition)
        if len(asked) == 2:
            broker.states.pop(asked[0])
        return found

    monkeypatch.setattr(RecordClient, "position", revoked_meanwhile)
    positions = await client.known_positions()
    assert {asked[1]: 0} == positions


async def test_records_taken_before_a_rebalance_are_returned(
    broker: Broker, client: RecordClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their partition has been revoked when the client looks whether it has more; the consumer drops them."""
    take = RecordClient._take  # noqa: SLF001 - where aiokafka lets other tasks run

    async def then_revoked(client: RecordClient, found: Records, *places: TopicPartition, **options: int) -> object:
        taken = await take(client, found, *places, **options)
        if found:
            broker.states.pop(ORDERS, None)
        return taken

    monkeypatch.setattr(RecordClient, "_take", then_revoked)
    broker.answer(ORDERS, *records_at(ORDERS, 0))
    assert {ORDERS: [0]} == _offsets(await _take(client))
