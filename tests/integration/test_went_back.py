"""A database that lacks its last commits: no acknowledged event is lost, and none is applied twice."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from dev.servers.kafka import Broker
from dev.servers.postgres import PostgresServer
from engine.anchor import Anchor, DatabaseWentBackError
from engine.dead_letters import build_dead_letter
from engine.execute import execute
from engine.tasks import DeadLetterTask
from inventory.settings import Settings
from storage.dead_letters import DeadLetterReason, StoredRecord
from storage.save import PartitionProgress, save_progress
from storage.stream import Position
from tests.integration.program import Program, running
from tests.integration.restoring import Backup
from tests.integration.shop import POLICY, T0, Shop, created, open_shop, paid, problems, product, task
from tests.integration.stream import Producer, committed, dated, ends, eventually, now_plus, producing, settings_for

HERE = Position("order.created", 0, 7)


@dataclass
class Stage:
    """A worker's settings, a database that can be restored, and a producer."""

    settings: Settings
    backup: Backup
    producer: Producer

    async def until(self, query: str, number: int) -> None:
        """Wait until the database and the group's offsets both have everything: `number` rows of a table expression."""

        async def reached() -> bool:
            async with open_shop(self.settings.database_url, 1) as shop:
                count = await shop.pool.fetchval(f"SELECT count(*) FROM {query}")  # noqa: S608 - constants
            kafka, prefix = self.settings.kafka_bootstrap_servers, self.settings.kafka_topic_prefix
            return bool(count >= number) and await ends(kafka, prefix) == await committed(kafka, prefix)

        await eventually(reached, seconds=90, why=f"{number} rows of {query}")


@pytest.fixture
async def stage(real_kafka: Broker, topics: str, database_url: str, postgres: PostgresServer) -> AsyncIterator[Stage]:
    """A stage on which no worker runs yet."""
    settings = settings_for(real_kafka.bootstrap_servers, topics, database_url)
    async with producing(real_kafka.bootstrap_servers, topics) as producer:
        yield Stage(settings, Backup(postgres, database_url), producer)


async def test_a_batch_without_its_anchor_is_not_applied(shop: Shop) -> None:
    """Whichever kind the anchor is: where it is there the batch is applied, where it is gone nothing is."""
    dead_letter = build_dead_letter(
        StoredRecord("order.created", 0, 1, b"k", b"{", (), T0), DeadLetterReason.DECODE_ERROR, "no JSON", T0
    )
    first = await shop.run([task(product("p", 10))])
    assert Anchor(event=("shop", "new-p")) == first.anchor
    second = await shop.run([DeadLetterTask(dead_letter)])
    assert Anchor(dead_letter=dead_letter.id) == second.anchor
    assert None is (await shop.run([task(product("p", 10))])).anchor
    async with shop.pool.acquire() as connection:
        await save_progress(connection, [PartitionProgress(*HERE, T0)])
    stored = [first.anchor, second.anchor, Anchor(positions=[HERE])]
    for number, anchor in enumerate(stored):
        await execute(shop.pool, [task(created(f"o{number}", {"p": 1}))], POLICY, T0, anchor=anchor)
    await shop.pool.execute("DELETE FROM inbox WHERE event_id = 'new-p'")
    await shop.pool.execute("DELETE FROM dead_letters")
    await shop.pool.execute("UPDATE stream_progress SET next_offset = 6")
    for anchor in stored:
        with pytest.raises(DatabaseWentBackError):
            await execute(shop.pool, [task(created("lost", {"p": 1}))], POLICY, T0, anchor=anchor)
    assert None is await shop.status("lost")
    assert (10, 3) == await shop.stock("p")


async def test_an_event_whose_wait_has_ended_is_no_anchor_that_went_missing(shop: Shop) -> None:
    """A parked event leaves the inbox when its deadline passes; its dead letter stands for it."""
    result = await shop.run([task(paid("unknown"))])
    record = StoredRecord("payment.succeeded", 0, 1, b"k", b"{", (), T0)
    ended = build_dead_letter(
        record, DeadLetterReason.DEADLINE_EXPIRED, "no order", T0, event_id="paid-unknown", source="shop"
    )
    await shop.run([DeadLetterTask(ended)])
    await shop.pool.execute("DELETE FROM inbox")
    assert Anchor(event=("shop", "paid-unknown")) == result.anchor
    await execute(shop.pool, [task(product("p", 10))], POLICY, T0, anchor=result.anchor)
    assert (10, 0) == await shop.stock("p")


@pytest.mark.parametrize("lost", ["events", "dead letters"])
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
async def test_a_worker_notices_while_it_runs(stage: Stage, lost: str, *, busy: bool) -> None:
    """By the next batch, or by the next tick where nothing arrives, it ends with 75 and one line."""
    async with running(stage.settings) as program:
        await program.port()
        await stage.producer.send(product("p", 1000), *_orders("before"))
        await stage.until("inbox", 11)
        await stage.backup.make()
        if lost == "events":
            await stage.producer.send(*_orders("lost"))
            await stage.until("inbox", 21)
        else:
            for number in range(10):
                await stage.producer.raw("order.created", b"%d{" % number, partition=number % 4)
            await stage.until("dead_letters", 10)
        await stage.backup.restore()
        if busy:
            await stage.producer.send(*_orders("after"))
        assert 75 == await program.exit_code(), program.lines
        said = [line for line in program.lines if "lacks events that this worker committed" in line]
        assert 1 == len(said), program.lines
        assert not _tracebacks(program)


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "running"])
async def test_every_acknowledged_event_is_applied_once(stage: Stage, *, stopped: bool) -> None:
    """A database is restored under a worker, or while there is none: what Kafka acknowledged is all there, once."""
    events = {name: _orders(name) for name in ("before", "lost", "after")}
    starts = 0

    async def run_until_told(stop: asyncio.Event) -> None:
        """Start the worker anew whenever it asks for it."""
        nonlocal starts
        while not stop.is_set():
            starts += 1
            async with running(stage.settings) as program:
                ended = asyncio.create_task(program.process.wait())
                told = asyncio.create_task(stop.wait())
                await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    program.process.send_signal(signal.SIGTERM)
                assert await program.exit_code() in {0, 75}, program.lines

    @asynccontextmanager
    async def supervised() -> AsyncIterator[None]:
        stop = asyncio.Event()
        supervisor = asyncio.create_task(run_until_told(stop))
        yield
        stop.set()
        await supervisor

    async with supervised():
        await stage.producer.send(product("p", 1000), *events["before"])
        await stage.until("inbox", 11)
        await stage.backup.make()
        await stage.producer.send(*events["lost"])
        await stage.until("inbox", 21)
        if not stopped:
            await stage.backup.restore()
            await stage.producer.send(*events["after"])
            await stage.until("inbox", 31)
    if stopped:
        await stage.backup.restore()
        await stage.producer.send(*events["after"])
        async with supervised():
            await stage.until("inbox", 31)
    assert 2 == starts
    async with open_shop(stage.settings.database_url) as shop:
        assert (1000, 30) == await shop.stock("p")
        assert 30 == await shop.pool.fetchval("SELECT count(*) FROM inventory_transactions WHERE type = 'RESERVE'")
        assert [] == await problems(shop.pool)
        assert 0 == await shop.pool.fetchval("SELECT count(*) FROM stream_gaps")


def _orders(name: str) -> list[dict[str, object]]:
    return dated((created(f"{name}{number}", {"p": 1}) for number in range(10)), now_plus(0))


def _tracebacks(program: Program) -> list[str]:
    return [line for line in program.lines if "Traceback" in line]
