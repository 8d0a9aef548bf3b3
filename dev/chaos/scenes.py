"""Bounded scenes, one for each safeguard: green with the whole worker, red with that safeguard taken out."""

import asyncio
import contextlib
import itertools
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from zlib import crc32

import asyncpg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from dev.chaos.cluster import PARTITIONS, Servers, Stage, open_stage
from dev.chaos.crew import Crew
from dev.chaos.errors import ChaosError
from dev.chaos.generator import Traffic
from dev.chaos.run import RULES, Options, Result, Say, Timing, check, python_command, wind_down
from dev.chaos.script import Publication, Script
from dev.chaos.watch import Watch

APPLY_SECONDS = 60.0
DRAIN_SECONDS = 20.0
BEAT_SECONDS = 0.05


@dataclass(slots=True)
class Act:
    """What a scene works with."""

    stage: Stage
    crew: Crew
    watch: Watch
    traffic: Traffic
    numbers: int = 0

    async def publish(self, events: Iterable[tuple[str, str, Mapping[str, Any]]], **more: Any) -> list[Publication]:  # noqa: ANN401 - fields of a publication
        """Publish events given as topic, id and data, and wait for the broker's word."""
        publications = []
        for topic, event_id, data in events:
            self.numbers += 1
            key = str(data.get("order_id") or data.get("cart_id") or data.get("product_id"))
            publications.append(Publication(topic, key, event_id, data, number=self.numbers, **more))
        await self.traffic.publish(publications)
        return publications

    async def repeat(self, publications: Iterable[Publication]) -> None:
        """Publish the same events once more, as a producer does that missed the first acknowledgement."""
        await self.traffic.publish(
            replace(publication, copy_of=publication.number, number=publication.number + 10_000)
            for publication in publications
        )

    async def applied(self) -> None:
        """Wait until all that was published is applied."""
        if await self.watch.until_applied(self.traffic.acknowledged_ends(), APPLY_SECONDS) is None:
            raise ChaosError("the worker did not apply a scene's first events")

    @asynccontextmanager
    async def frozen_table(self, table: str, mode: str = "ACCESS EXCLUSIVE") -> AsyncIterator[None]:
        """Lock a table, so that a batch that is under way stands still before its commit."""
        connection = await asyncpg.connect(self.stage.database_url)
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {table} IN {mode} MODE")
                yield
        finally:
            await connection.close()

    async def shared(self) -> None:
        """Wait until every worker has partitions."""
        admin = AdminClient({"bootstrap.servers": self.stage.servers.kafka.bootstrap_servers, "log_level": 0})
        deadline = time.monotonic() + APPLY_SECONDS
        while time.monotonic() < deadline:
            described = admin.describe_consumer_groups([self.stage.group_id], request_timeout=5)
            # A coordinator that was just elected is not found by the first question.
            with contextlib.suppress(KafkaException, TimeoutError):
                group = await asyncio.to_thread(described[self.stage.group_id].result, 6)
                if sum(bool(member.assignment.topic_partitions) for member in group.members) == len(self.crew.workers):
                    return
            await asyncio.sleep(BEAT_SECONDS * 4)
        raise ChaosError("the workers did not share the partitions")

    async def committed(self, seconds: float) -> bool:
        """Wait until the group has committed the offsets of all that was published; false when the time is up."""
        ends = self.traffic.acknowledged_ends()
        consumer = Consumer(
            {
                "bootstrap.servers": self.stage.servers.kafka.bootstrap_servers,
                "group.id": self.stage.group_id,
                "log_level": 0,
            }
        )
        places = [TopicPartition(self.stage.prefix + topic, number) for topic, number in ends]
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline:
                found = await asyncio.to_thread(consumer.committed, places, 5)
                if all(
                    place.offset >= ends[place.topic.removeprefix(self.stage.prefix), place.partition]
                    for place in found
                ):
                    return True
                await asyncio.sleep(BEAT_SECONDS)
        finally:
            consumer.close()
        return False


@dataclass(frozen=True, slots=True)
class Scene:
    """`ablation` is what the scene finds out, `finds` the kinds of violation that say so, any of them."""

    ablation: str
    finds: frozenset[str]
    play: Callable[[Act], Awaitable[None]]
    settings: Mapping[str, str] = field(default_factory=dict)
    order_ttl_seconds: float = 12.0


async def play(servers: Servers, scene: Scene, ablation: str, options: Options, say: Say) -> Result:
    """Play a scene with a worker that lacks `ablation`, and judge what is left."""
    name = f"scene_{scene.ablation}_{ablation}_{int(time.time() * 10) % 1_000_000}"
    async with open_stage(servers, name, options.directory, scene.settings) as stage:
        crew, watch = Crew(stage, python_command("dev.chaos.ablated", ablation)), Watch(stage)
        traffic = Traffic(servers.kafka.bootstrap_servers, stage.prefix, Script(options.seed, 1.0, 1.0))
        try:
            crew.open()
            await scene.play(Act(stage, crew, watch, traffic))
            violations = await wind_down(crew, watch, traffic, say, Timing(DRAIN_SECONDS, DRAIN_SECONDS))
        finally:
            await crew.close()
            await watch.close()
        rules = replace(RULES, order_ttl=timedelta(seconds=scene.order_ttl_seconds))
        return await check(stage, options, traffic, violations, [], say, rules)


def is_found(scene: Scene, result: Result) -> bool:
    """Say whether the checker went red for the reason that the scene is about."""
    return not scene.finds.isdisjoint(violation.kind for violation in result.violations)


def _products(count: int, quantity: int) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        ("product.created", f"p{n}-created", {"product_id": f"p{n}", "initial_quantity": quantity})
        for n in range(count)
    ]


def _adjustments(name: str, count: int) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (
            "inventory.adjustment",
            f"{name}-{n}",
            {"product_id": f"p{n % 8}", "operation": "ADD", "quantity": n + 1, "reason": "delivery"},
        )
        for n in range(count)
    ]


def _orders(count: int) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        ("order.created", f"o{n}-created", {"order_id": f"o{n}", "items": [{"product_id": f"p{n % 8}", "quantity": 1}]})
        for n in range(count)
    ]


async def _producer_repeats(act: Act) -> None:
    """A producer repeats its adjustments after they were applied."""
    act.crew.hire()
    await act.publish(_products(8, 50))
    await act.applied()
    adjustments = await act.publish(_adjustments("a", 16))
    await act.applied()
    await act.repeat(adjustments)


async def _killed_in_the_transaction(act: Act) -> None:
    """A worker is killed after it took a batch and before PostgreSQL committed it."""
    worker = act.crew.hire()
    await act.publish(_products(8, 50))
    await act.applied()
    async with act.frozen_table("inventory"):
        await act.publish(_adjustments("a", 16))
        # The whole worker never gets there: it has had its time when the lock would time out.
        await act.committed(6.0)
        worker.send(signal.SIGKILL)
        await asyncio.sleep(0.2)
    await act.publish(_adjustments("b", 8))


async def _odd_headers(act: Act) -> None:
    """Records with headers that are no text lie among good ones when the worker starts."""
    await act.publish(_products(8, 50))
    await act.publish(
        [("cart.updated", "bad", {"cart_id": "bad", "items": []})], spoil="null header", expects=("decode_error",)
    )
    await act.publish(_adjustments("a", 16))
    act.crew.hire()
    await asyncio.sleep(8)
    await act.publish([("cart.updated", f"c{n}", {"cart_id": f"c{n}", "items": []}) for n in range(16)])
    await act.publish(_products(16, 1)[8:])
    await act.publish(_adjustments("b", 16))


async def _paid_while_all_were_down(act: Act) -> None:
    """All workers are down for longer than a hold lasts, and the payments wait in Kafka."""
    worker = act.crew.hire()
    await act.publish(_products(8, 50))
    await act.applied()
    orders = _orders(16)
    await act.publish(orders)
    await act.applied()
    worker.kill()
    await act.publish(
        ("payment.succeeded", f"{data['order_id']}-paid", {"order_id": data["order_id"]}) for _, _, data in orders
    )
    await asyncio.sleep(7.0)
    worker.start()


async def _carts_ordered_while_refreshed(act: Act) -> None:
    """Carts are refreshed by one worker while the other takes them over for their orders."""
    for _ in range(2):
        act.crew.hire()
    await act.publish(_products(8, 500))
    # Two workers share each topic by halves, the same for all: carts go to one worker, their orders to the other.
    carts, orders = _ids("c", {0, 1}, 12), _ids("o", {2, 3}, 12)

    def refreshed(version: int) -> list[tuple[str, str, dict[str, Any]]]:
        return [
            (
                "cart.updated",
                f"{cart}-v{version}",
                {"cart_id": cart, "version": version, "items": [{"product_id": f"p{n % 8}", "quantity": 2}]},
            )
            for n, cart in enumerate(carts)
        ]

    await act.shared()
    await act.publish(refreshed(1))
    await act.applied()
    async with act.frozen_table("inbox", "EXCLUSIVE"):
        await act.publish(
            ("order.created", f"{order}-created", {"order_id": order, "cart_id": cart, "items": items})
            for order, cart, items in zip(orders, carts, (data["items"] for _, _, data in refreshed(1)), strict=True)
        )
        await asyncio.sleep(1.5)
        await act.publish(refreshed(2))
        await asyncio.sleep(1.5)


def _ids(letter: str, partitions: set[int], count: int) -> list[str]:
    """Return ids whose records the producer puts into these partitions (librdkafka: CRC-32 of the key)."""
    found = (f"{letter}{n}" for n in itertools.count() if crc32(f"{letter}{n}".encode()) % PARTITIONS in partitions)
    return list(itertools.islice(found, count))


async def _killed_after_the_commit(act: Act) -> None:
    """A worker is killed right after PostgreSQL committed its batch."""
    worker = act.crew.hire()
    await act.publish(_products(8, 50))
    await act.applied()
    await asyncio.sleep(2.0)
    await act.publish(_orders(24))
    await act.applied()
    worker.send(signal.SIGKILL)


SCENES = (
    Scene("inbox_off", frozenset({"double_applied"}), _producer_repeats),
    Scene("offsets_first", frozenset({"lost"}), _killed_in_the_transaction),
    Scene("stock_parser", frozenset({"lost"}), _odd_headers),
    Scene(
        "wall_clock",
        frozenset({"expired_though_paid"}),
        _paid_while_all_were_down,
        {"INVENTORY_ORDER_RESERVATION_TTL": "6s"},
        6.0,
    ),
    Scene("no_locks", frozenset({"ledger", "cart", "oversold"}), _carts_ordered_while_refreshed),
    Scene("no_outbox", frozenset({"outcome_missing", "low_stock_missing"}), _killed_after_the_commit),
)
