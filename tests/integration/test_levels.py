"""`inventory.levels`: the last level of every product, in versions that never fall, by one publisher at a time."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.errors import ProducerFenced

from dev.servers.kafka import Broker
from engine import metrics
from inventory import levels as republishing
from inventory.console import ProgressLine
from inventory.errors import OperatorError
from inventory.levels import republish
from inventory.wiring import level_publisher
from schemas.outgoing import Level
from schemas.topics import LEVELS
from storage import levels
from tests.integration.publishing import PublishingStage
from tests.integration.shop import T0, adjusted, cart, created, open_shop, paid, product
from tests.integration.stream import eventually, read, settings_for
from workers.maintenance import Maintenance, MaintenanceOptions
from workers.publishing import levels as levels_module
from workers.publishing.levels import LevelOptions, LevelPublisher

# A producer that is stopped while it opens a connection leaves that to the garbage collector, in aiokafka.
drops_producers = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore:Unclosed:ResourceWarning")


class Stage(PublishingStage):
    """A stage for publishers of levels."""

    application = "inventory-levels"

    def publisher(self, records_per_step: int = 500, records_per_second: int = 100_000) -> LevelPublisher:
        """Return a publisher that does nothing yet."""
        options = LevelOptions(self.prefix, records_per_second, records_per_step)
        made = LevelPublisher(self.url, self.producer_options, options)
        self.made.append(made)
        return made

    def start(self) -> LevelPublisher:
        """Return a publisher that runs."""
        made = self.publisher()
        self.run(made)
        return made

    async def records(self, at_least: int) -> list[ConsumerRecord]:
        """Return the topic's records, at least so many."""
        return await read(self.bootstrap_servers, self.prefix + LEVELS, at_least)

    async def marked(self) -> list[str]:
        """Return the products in all marks."""
        rows = await self.shop.rows("SELECT unnest(product_ids) FROM level_changes ORDER BY 1")
        return [row[0] for row in rows]

    async def stock(self) -> dict[str, dict[str, Any]]:
        """Return what the tables say, as the contract says it."""
        rows = await self.shop.pool.fetch(
            "SELECT product_id, on_hand, reserved, available, low_stock_threshold, stock_status, version, updated_at"
            " FROM inventory"
        )
        return {row["product_id"]: dict(row) for row in rows}

    async def all_published(self) -> None:
        """Wait until no mark is left."""

        async def nothing_left() -> bool:
            return await self.marked() == []

        await eventually(nothing_left, why="marks of unpublished levels are left")


def _last(records: Sequence[ConsumerRecord]) -> dict[str, dict[str, Any]]:
    """Return the state that a reader of the whole topic has."""
    return {record.key.decode(): Level.model_validate_json(record.value).model_dump() for record in records}


def _versions(records: Sequence[ConsumerRecord], key: str) -> list[int]:
    return [json.loads(record.value)["version"] for record in records if record.key == key.encode()]


@pytest.fixture
async def stage(kafka: Broker, topics: str, database_url: str) -> AsyncIterator[Stage]:
    """A stage without a publisher."""
    async with open_shop(database_url) as shop:
        made = Stage(shop, database_url, kafka.bootstrap_servers, topics)
        yield made
        await made.stop()


# --- marks --------------------------------------------------------------------------------------


async def test_every_change_is_marked_in_its_transaction(stage: Stage) -> None:
    """New and changed products are marked by whatever statement changes them; what changes nothing marks nothing."""
    await stage.shop.apply(product("a", 5), product("b", 5), product("c", 5))
    assert ["a", "b", "c"] == await stage.marked()
    await stage.shop.pool.execute("DELETE FROM level_changes")
    await stage.shop.apply(created("o1", {"a": 2, "b": 2}), created("o2", {"a": 4}))
    assert ["a", "b"] == await stage.marked()
    await stage.shop.pool.execute("DELETE FROM level_changes")
    await stage.shop.apply(created("o1", {"a": 2, "b": 2}), created("o2", {"a": 4}))
    await stage.shop.pool.execute("UPDATE inventory SET on_hand = 1 WHERE product_id = 'nothing'")
    assert [] == await stage.marked()
    await stage.shop.pool.execute("UPDATE inventory SET version = version + 1 WHERE product_id = 'c'")
    assert ["c"] == await stage.marked()


async def test_marks_are_merged_where_nobody_publishes(stage: Stage) -> None:
    """A database without a publisher keeps each product once, and the time of the oldest change."""
    await stage.shop.apply(product("a", 500), product("b", 500))
    oldest = await stage.shop.pool.fetchval("SELECT created_at FROM level_changes")
    for number in range(4):
        await stage.shop.apply(created(f"o{number}", {"a": 1, "b": 1}))
    async with stage.shop.pool.acquire() as connection:
        assert not await levels.merge_marks(connection, above=5)
        assert await levels.merge_marks(connection, above=4)
        assert [(["a", "b"],)] * 2 == await stage.shop.rows("SELECT product_ids FROM level_changes")
        assert oldest == await levels.oldest_unpublished(connection)


async def test_a_merge_meanwhile_loses_nothing(stage: Stage) -> None:
    """Marks that are merged while their levels are being published are published again."""
    await stage.shop.apply(product("a", 5))
    await stage.shop.apply(product("b", 5))
    async with stage.shop.pool.acquire() as connection:
        [first] = await levels.unpublished(connection, 1)
        await levels.merge_marks(connection, above=1)
        await levels.delete_published(connection, [first.position])
    assert ["a", "b"] == await stage.marked()


async def test_maintenance_merges_and_shows_the_oldest(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gauge has the age of the oldest change, and retention keeps the marks few."""
    monkeypatch.setattr(levels.merge_marks, "__defaults__", (2,))
    for name in "abc":
        await stage.shop.apply(product(name, 5))
    clock = datetime.now(UTC)
    made = Maintenance(
        stage.shop.pool,
        MaintenanceOptions(T0 - T0, T0 - T0, retention_interval_seconds=0),
        lambda: clock,
    )
    await made.refresh_gauges()
    created_at = await stage.shop.pool.fetchval("SELECT min(created_at) FROM level_changes")
    assert max((clock - created_at).total_seconds(), 0) == metrics.LEVELS_OLDEST._value.get()  # noqa: SLF001 - its value
    await made.run_once()
    assert ["a", "b", "c"] == await stage.marked()
    assert await stage.shop.pool.fetchval("SELECT count(*) FROM level_changes") < 3


# --- publishing ---------------------------------------------------------------------------------


async def test_a_reader_of_the_topic_has_the_stock_of_the_tables(stage: Stage) -> None:
    """The last record of each key is the product's row, under its key, and nothing is left to publish."""
    await stage.shop.apply(product("a", 12, 10), product("b", 3), product("tea / \N{TEACUP WITHOUT HANDLE}", 3))
    publisher = stage.publisher()
    assert 3 == await publisher.run_once()
    await stage.shop.apply(created("o1", {"a": 4, "b": 3}), paid("o1"), cart("c", {"a": 1}))
    assert 2 == await publisher.run_once()
    assert 0 == await publisher.run_once()
    records = await stage.records(5)
    assert await stage.stock() == _last(records)
    assert [] == await stage.marked()


async def test_changes_within_a_step_are_merged(stage: Stage) -> None:
    """Fifty changes that wait are one record, with the last of them."""
    await stage.shop.apply(product("a", 100))
    for number in range(50):
        await stage.shop.apply(created(f"o{number}", {"a": 1}))
    assert 1 == await stage.publisher().run_once()
    assert [51] == _versions(await stage.records(1), "a")


async def test_a_product_has_at_most_one_record_in_a_tenth_of_a_second(stage: Stage) -> None:
    """Two steps are never closer, however fast the changes are and however short a step is."""
    publisher = stage.publisher(records_per_step=1)
    await stage.shop.apply(product("a", 100), product("b", 100))
    moments = []
    original = publisher._send  # noqa: SLF001 - to see when it sends

    async def timed(*arguments: Any) -> None:
        moments.append(asyncio.get_running_loop().time())
        await original(*arguments)

    publisher._send = timed  # type: ignore[assignment] # noqa: SLF001 - as above
    for number in range(3):
        await stage.shop.apply(created(f"o{number}", {"a": 1, "b": 1}))
        assert 2 == await publisher.run_once()
    assert 6 == len(moments)
    # The loop's timer may be a hair early.
    assert all(later - earlier > 0.099 for earlier, later in pairwise(moments))


async def test_the_rate_is_bounded(stage: Stage) -> None:
    """A step is followed by as long a pause as its records and its overhead may take of a second."""
    publisher = stage.publisher(records_per_second=1_000, records_per_step=2)
    await stage.shop.apply(*(product(f"p{number}", 5) for number in range(4)))
    await publisher.run_once()
    started = asyncio.get_running_loop().time()
    await stage.shop.apply(adjusted("p0", "ADD", 1))
    await publisher.run_once()
    # Two records and the overhead of 250, at 1,000 a second; less what was spent meanwhile.
    assert asyncio.get_running_loop().time() - started > 0.2


async def test_marks_stay_until_kafka_has_acknowledged(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure between reading and the commit of Kafka's transaction publishes again."""
    await stage.shop.apply(product("a", 5))
    publisher = stage.publisher()

    async def fail(*_: object) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patched:
        patched.setattr(levels_module.LevelPublisher, "_send", fail)
        with pytest.raises(ConnectionResetError):
            await publisher.run_once()
    assert ["a"] == await stage.marked()
    await publisher.close()
    assert 1 == await stage.publisher().run_once()


async def test_a_change_while_levels_are_sent_stays_marked(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed after the level was read has a mark of its own, which is not deleted with the older one."""
    await stage.shop.apply(product("a", 5))
    publisher = stage.publisher()
    original = LevelPublisher._send  # noqa: SLF001 - to change something meanwhile

    async def change_first(self: LevelPublisher, *arguments: Any) -> None:
        await stage.shop.apply(created("o1", {"a": 1}))
        await original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(LevelPublisher, "_send", change_first)
        await publisher.run_once()
    assert ["a"] == await stage.marked()
    await publisher.run_once()
    assert [1, 2] == _versions(await stage.records(2), "a")


async def test_marks_are_deleted_as_their_products_are_published(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash repeats the last step, not everything since the marks were read."""
    await stage.shop.apply(product("a", 5))
    await stage.shop.apply(product("b", 5), product("c", 5))
    await stage.shop.apply(adjusted("a", "ADD", 1))
    publisher = stage.publisher(records_per_step=1)
    left = []
    original = LevelPublisher._send  # noqa: SLF001 - to look at the marks meanwhile

    async def look(self: LevelPublisher, *arguments: Any) -> None:
        left.append(await stage.marked())
        await original(self, *arguments)

    monkeypatch.setattr(LevelPublisher, "_send", look)
    assert 3 == await publisher.run_once()
    assert [["a", "a", "b", "c"], ["a", "b", "c"], ["a", "b", "c"]] == left
    assert [] == await stage.marked()


# --- republishing -------------------------------------------------------------------------------


async def _republish(stage: Stage, show: ProgressLine = lambda *_progress: None) -> int:
    settings = settings_for(stage.bootstrap_servers, stage.prefix, stage.url)
    async with stage.shop.pool.acquire() as connection:
        return await republish(connection, partial(level_publisher, settings), show)


async def test_republishing_makes_a_lost_topic_whole(stage: Stage) -> None:
    """Without a worker the command itself publishes every product, changed or not."""
    await stage.shop.apply(*(product(f"p{number}", number) for number in range(7)))
    await stage.shop.pool.execute("DELETE FROM level_changes")
    shown: list[tuple[str, int, int]] = []
    assert 7 == await _republish(stage, lambda *progress: shown.append(progress))
    assert await stage.stock() == _last(await stage.records(7))
    assert {("products marked", 7, 7), ("products published", 7, 7)} <= set(shown)
    assert [] == await stage.marked()


async def test_republishing_leaves_the_publishing_to_a_worker(stage: Stage) -> None:
    """Where a worker publishes levels, the command marks the products and waits for it."""
    await stage.shop.apply(*(product(f"p{number}", number) for number in range(7)))
    running = stage.start()
    await stage.all_published()
    assert running.is_publisher
    assert 7 == await _republish(stage)
    assert running.is_publisher
    assert [1, 1] == _versions(await stage.records(14), "p3")


async def test_republishing_gives_up_waiting_for_a_worker_that_cannot_publish(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says where to look, and the products stay marked."""
    monkeypatch.setattr(republishing, "STANDSTILL_SECONDS", 0.2)
    await stage.shop.apply(product("a", 5))
    async with stage.shop.pool.acquire() as connection:
        assert await levels.become_publisher(connection)
        with pytest.raises(OperatorError, match="no level was published for 0 s"):
            await _republish(stage)
        await connection.execute("SELECT pg_advisory_unlock_all()")
    assert ["a", "a"] == await stage.marked()


async def test_an_empty_shop_has_nothing_to_republish(stage: Stage) -> None:
    """No products, no records, no wait."""
    assert 0 == await _republish(stage)


# --- several publishers -------------------------------------------------------------------------


async def test_one_publisher_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process waits; when the session of the first ends, it takes over and loses nothing."""
    monkeypatch.setattr(levels_module, "TAKE_OVER_SECONDS", 0.05)
    await stage.shop.apply(product("a", 500))
    first, second = stage.publisher(), stage.publisher()
    assert 1 == await first.run_once()
    assert 0 == await second.run_once()
    assert (True, False) == (first.is_publisher, second.is_publisher)
    await stage.shop.apply(created("o1", {"a": 1}))
    assert 0 == await second.run_once()
    await first.close()
    assert 1 == await second.run_once()
    assert [1, 2] == _versions(await stage.records(2), "a")


@drops_producers
async def test_versions_never_fall_while_publishers_come_and_go(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes whose sessions are ended again and again: each key's versions only grow, and the last arrives."""
    monkeypatch.setattr(levels_module, "TAKE_OVER_SECONDS", 0.02)
    await stage.shop.apply(*(product(f"p{number}", 1000) for number in range(5)))
    for _ in range(3):
        stage.start()
    for number in range(30):
        await stage.shop.apply(adjusted(f"p{number % 5}", "ADD", 1, f"e{number}"))
        await asyncio.sleep(0.02)
        if number % 10 == 9:
            await stage.end_sessions()
    await stage.all_published()
    records = await stage.records(5)
    assert await stage.stock() == _last(records)
    for number in range(5):
        versions = _versions(records, f"p{number}")
        assert sorted(versions) == versions


@drops_producers
async def test_kafka_refuses_what_an_older_publisher_still_sends(
    real_kafka: Broker, topic_prefix: str, database_url: str
) -> None:
    """A publisher that was frozen in the middle of a step cannot bring an older version back once it thaws."""
    async with open_shop(database_url) as shop:
        stage = Stage(shop, database_url, real_kafka.bootstrap_servers, topic_prefix)
        await shop.apply(product("a", 5))
        frozen, following = stage.publisher(), stage.publisher()
        await frozen.run_once()
        producer = frozen._producer  # noqa: SLF001 - a frozen process keeps it
        assert isinstance(producer, AIOKafkaProducer)
        await stage.end_sessions()
        await shop.apply(created("o1", {"a": 1}))
        await following.run_once()
        with pytest.raises(ProducerFenced):
            async with producer.transaction():
                await producer.send_and_wait(topic_prefix + LEVELS, b'{"version": 1}', key=b"a")
        assert [1, 2] == _versions(await stage.records(2), "a")
        await stage.stop()
