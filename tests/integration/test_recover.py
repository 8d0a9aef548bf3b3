"""Records that Kafka lost, topics that were made anew, and what an operator sees and decides."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete

from dev.servers.kafka import Broker
from inventory.settings import Settings
from tests.integration.program import Program, running
from tests.integration.shop import Published, Shop, body, created, open_shop, product
from tests.integration.stream import Producer, committed, dated, ends, eventually, now_plus, producing, settings_for

PADDING = b" " * 20_000


@dataclass
class Stage:
    """A broker whose records can be deleted, a shop, and the settings of a worker."""

    settings: Settings
    shop: Shop
    producer: Producer

    async def send(self, *events: Published, padding: bytes = b"") -> None:
        """Send events to partition 0 of their topics."""
        for one in events:
            await self.producer.raw(one["topic"], body(one) + padding, partition=0)

    async def until(self, query: str, number: int) -> None:
        """Wait for rows of a table expression, and for the group's offsets."""

        async def reached() -> bool:
            count = await self.shop.pool.fetchval(f"SELECT count(*) FROM {query}")  # noqa: S608 - constants
            kafka, prefix = self.settings.kafka_bootstrap_servers, self.settings.kafka_topic_prefix
            return bool(count >= number) and await ends(kafka, prefix) == await committed(kafka, prefix)

        await eventually(reached, seconds=90, why=f"{number} rows of {query}")

    async def delete_before(self, offset: int) -> None:
        """Let Kafka delete orders, as retention does."""
        place = TopicPartition(f"{self.settings.kafka_topic_prefix}order.created", 0)
        async with self._admin() as admin:
            await admin.delete_records({place: RecordsToDelete(before_offset=offset)})

    async def make_anew(self) -> None:
        """Delete the topic of orders and create it again."""
        name = f"{self.settings.kafka_topic_prefix}order.created"
        async with self._admin() as admin:
            await admin.delete_topics([name])

            async def made() -> bool:
                response = await admin.create_topics([NewTopic(name, num_partitions=4, replication_factor=1)])
                return bool(response.topic_errors[0][1] == 0)

            await eventually(made)

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run a command; returns its exit code and what it printed."""
        async with running(self.settings, *arguments) as program:
            code = await program.exit_code()
        return code, "\n".join(program.lines)

    def _admin(self) -> Any:
        return _Admin(self.settings.kafka_bootstrap_servers)


class _Admin:
    def __init__(self, bootstrap_servers: str) -> None:
        self._client = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)

    async def __aenter__(self) -> AIOKafkaAdminClient:
        await self._client.start()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()


@pytest.fixture
async def stage(real_kafka: Broker, topics: str, database_url: str) -> AsyncIterator[Stage]:
    """A stage with a product and no worker."""
    settings = settings_for(real_kafka.bootstrap_servers, topics, database_url)
    async with open_shop(database_url) as shop, producing(real_kafka.bootstrap_servers, topics) as producer:
        await shop.apply(product("p", 1000))
        yield Stage(settings, shop, producer)


async def test_what_kafka_lost_is_named_until_it_is_accepted(stage: Stage) -> None:
    """Records deleted while the worker was down: a gap, not ready, shown with exit code 1, and accepted by name."""
    async with running(stage.settings) as program:
        await stage.send(*_orders("a", 5))
        await stage.until("orders", 5)
        await _stop(program)
    await stage.send(*_orders("b", 10))
    await stage.delete_before(12)
    code, printed = await stage.command("recover", "--json")
    (order,) = [one for one in json.loads(printed)["partitions"] if one["topic"] == "order.created" and one["end"]]
    assert (1, 12, 15, 5, 5, 12, 0, 7) == (code, *(order[name] for name in tuple(order)[2:]))
    async with running(stage.settings) as program:
        port = await program.port()
        await stage.until("orders", 8)
        said = await program.said("Kafka deleted records .* before they were read")
        assert "records 5 to 11 of order.created, partition 0" in said.string
        assert (503, True) == await _ready(port, "records 5 to 11 of order.created")
        assert 'inventory_stream_gap_records_total{topic="order.created"} 7.0' in (await _get(port, "metrics"))[1]
        assert 1 == (await stage.command("recover"))[0]
        assert (0, "1 gaps acknowledged") == await stage.command("recover", "--accept-gap", "--operator", "ann")
        await eventually(lambda: _is_ready(port))
        await _stop(program)
    assert 0 == (await stage.command("recover"))[0]
    (gap,) = await stage.shop.rows(
        "SELECT topic, partition, from_offset, to_offset, cause, accepted_by FROM stream_gaps"
    )
    assert ("order.created", 0, 5, 12, "deleted", "ann") == gap
    async with running(stage.settings) as program:  # an accepted gap is no gap again
        await eventually(lambda: _is_ready_once_started(program))
        await _stop(program)
    assert 1 == await stage.shop.pool.fetchval("SELECT count(*) FROM stream_gaps")


async def test_what_kafka_deletes_under_a_worker_that_lags_is_a_gap_too(stage: Stage) -> None:
    """Aiokafka alone would go on behind it without a word."""
    async with running(stage.settings) as program:
        await program.port()
        async with stage.shop.pool.acquire() as other, other.transaction():
            await other.execute("LOCK TABLE inventory IN ACCESS EXCLUSIVE MODE")
            await stage.send(*_orders("a", 60), padding=PADDING)
            await stage.delete_before(60)
        await program.said("Kafka deleted records .* before they were read")
        await stage.send(*_orders("b", 3))
        await stage.until("orders WHERE order_id LIKE 'b%'", 3)
        await _stop(program)
    (gap,) = await stage.shop.rows("SELECT from_offset, to_offset FROM stream_gaps")
    applied = await stage.shop.pool.fetchval("SELECT count(*) FROM orders WHERE order_id LIKE 'a%'")
    assert (applied, 60) == gap
    assert 0 < applied < 60


async def test_a_recreated_topic_is_read_from_its_beginning(stage: Stage) -> None:
    """Whether it has fewer records than the one before, or already more."""
    for name, before, after in (("fewer", 8, 3), ("more", 0, 9)):
        async with running(stage.settings) as program:
            await stage.send(*_orders(f"{name}-before-", before))
            await stage.until("orders", before)
            await _stop(program)
        await stage.make_anew()
        await stage.send(*_orders(f"{name}-after-", after))
        async with running(stage.settings) as program:
            await stage.until(f"orders WHERE order_id LIKE '{name}-after%'", after)
            await program.said("was deleted and created again")
            await _stop(program)
    assert 0 == await stage.shop.pool.fetchval("SELECT count(*) FROM stream_gaps")


async def test_records_are_skipped_on_purpose(stage: Stage) -> None:
    """Only while no worker runs; what is skipped is recorded, and does not keep a worker from being ready."""
    async with running(stage.settings) as program:
        await stage.send(*_orders("a", 2))
        await stage.until("orders", 2)
        code, printed = await stage.command("stream", "skip", "order.created", "0", "2")
        assert (2, True) == (code, "offset" in printed), printed
        await stage.send(*_orders("b", 1))
        await stage.until("orders", 3)
        await _stop(program)
    await stage.send(*_orders("skipped", 4), *_orders("c", 1))
    code, printed = await stage.command("stream", "skip", "order.created", "0", "7", "--operator", "ann")
    assert (0, "skipped offsets 3 to 6 of order.created, partition 0") == (code, printed)
    async with running(stage.settings) as program:
        port = await program.port()
        await stage.until("orders WHERE order_id LIKE 'c%'", 1)
        await eventually(lambda: _is_ready(port))
        await _stop(program)
    assert 4 == await stage.shop.pool.fetchval("SELECT count(*) FROM orders")
    code, printed = await stage.command("stream", "show")
    assert (0, True) == (code, "skipped" in printed)


def _orders(name: str, count: int) -> list[Published]:
    return dated((created(f"{name}{number}", {"p": 1}) for number in range(count)), now_plus(0))


async def _stop(program: Program) -> None:
    await program.port()
    program.process.send_signal(signal.SIGTERM)
    assert 0 == await program.exit_code(), program.lines


async def _is_ready_once_started(program: Program) -> bool:
    return await _is_ready(await program.port())


async def _is_ready(port: int) -> bool:
    return (await _get(port, "readyz"))[0] == 200


async def _ready(port: int, reason: str) -> tuple[int, bool]:
    status, text = await _get(port, "readyz")
    return status, reason in text


async def _get(port: int, path: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()

    return await asyncio.to_thread(get)
