"""Bounded scenarios, one for each safeguard: green with the whole worker, red with that safeguard taken out."""

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

from dev.chaos.cluster import PARTITIONS, Deployment, Servers, open_deployment
from dev.chaos.errors import ChaosError
from dev.chaos.generator import Generator
from dev.chaos.progress import ProgressMonitor
from dev.chaos.run import RULES, Options, Result, Say, Timing, check, python_command, wind_down
from dev.chaos.supervisor import Supervisor
from dev.chaos.workload import Publication, Workload

APPLY_SECONDS = 60.0
DRAIN_SECONDS = 20.0
BEAT_SECONDS = 0.05


@dataclass(slots=True)
class Context:
    """What a scenario works with."""

    deployment: Deployment
    supervisor: Supervisor
    monitor: ProgressMonitor
    generator: Generator
    numbers: int = 0

    async def publish(self, events: Iterable[tuple[str, str, Mapping[str, Any]]], **more: Any) -> list[Publication]:  # noqa: ANN401 - fields of a publication
        """Publish events given as topic, id and data, and wait for the broker's word."""
        publications = []
        for topic, event_id, data in events:
            self.numbers += 1
            key = str(data.get("order_id") or data.get("cart_id") or data.get("product_id"))
            publications.append(Publication(topic, key, event_id, data, number=self.numbers, **more))
        await self.generator.publish(publications)
        return publications

    async def repeat(self, publications: Iterable[Publication]) -> None:
        """Publish the same events once more, as a producer does that missed the first acknowledgement."""
        await self.generator.publish(
            replace(publication, copy_of=publication.number, number=publication.number + 10_000)
            for publication in publications
        )

    async def until_applied(self) -> None:
        """Wait until all that was published is applied."""
        if await self.monitor.until_applied(self.generator.acknowledged_ends(), APPLY_SECONDS) is None:
            raise ChaosError("the worker did not apply a scenario's first events")

    @asynccontextmanager
    async def locked_table(self, table: str, mode: str = "ACCESS EXCLUSIVE") -> AsyncIterator[None]:
        """Lock a table, so that a batch that is under way stands still before its commit."""
        connection = await asyncpg.connect(self.deployment.database_url)
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {table} IN {mode} MODE")
                yield
        finally:
            await connection.close()

    async def until_assigned(self) -> None:
        """Wait until every worker has partitions."""
        admin = AdminClient({"bootstrap.servers": self.deployment.servers.kafka.bootstrap_servers, "log_level": 0})
        deadline = time.monotonic() + APPLY_SECONDS
        while time.monotonic() < deadline:
            described = admin.describe_consumer_groups([self.deployment.group_id], request_timeout=5)
            # A coordinator that was just elected is not found by the first question.
            with contextlib.suppress(KafkaException, TimeoutError):
                group = await asyncio.to_thread(described[self.deployment.group_id].result, 6)
                if sum(bool(member.assignment.topic_partitions) for member in group.members) == len(
                    self.supervisor.workers
                ):
                    return
            await asyncio.sleep(BEAT_SECONDS * 4)
        raise ChaosError("the workers did not share the partitions")

    async def until_committed(self, seconds: float) -> bool:
        """Wait until the group has committed the offsets of all that was published; false when the time is up."""
        ends = self.generator.acknowledged_ends()
        consumer = Consumer(
            {
                "bootstrap.servers": self.deployment.servers.kafka.bootstrap_servers,
                "group.id": self.deployment.group_id,
                "log_level": 0,
            }
        )
        places = [TopicPartition(self.deployment.prefix + topic, number) for topic, number in ends]
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline:
                found = await asyncio.to_thread(consumer.committed, places, 5)
                if all(
                    place.offset >= ends[place.topic.removeprefix(self.deployment.prefix), place.partition]
                    for place in found
                ):
                    return True
                await asyncio.sleep(BEAT_SECONDS)
        finally:
            consumer.close()
        return False


@dataclass(frozen=True, slots=True)
class Scenario:
    """`ablation` is what the scenario finds out, `finds` the kinds of violation that say so, any of them."""

    ablation: str
    finds: frozenset[str]
    steps: Callable[[Context], Awaitable[None]]
    settings: Mapping[str, str] = field(default_factory=dict)
    order_ttl_seconds: float = 12.0


async def run_scenario(servers: Servers, scenario: Scenario, ablation: str, options: Options, say: Say) -> Result:
    """Play a scenario with a worker that lacks `ablation`, and judge what is left."""
    name = f"scenario_{scenario.ablation}_{ablation}_{int(time.time() * 10) % 1_000_000}"
    async with open_deployment(servers, name, options.directory, scenario.settings) as deployment:
        supervisor, monitor = (
            Supervisor(deployment, python_command("dev.chaos.ablated_worker", ablation)),
            ProgressMonitor(deployment),
        )
        generator = Generator(servers.kafka.bootstrap_servers, deployment.prefix, Workload(options.seed, 1.0, 1.0))
        try:
            supervisor.open()
            await scenario.steps(Context(deployment, supervisor, monitor, generator))
            violations = await wind_down(supervisor, monitor, generator, say, Timing(DRAIN_SECONDS, DRAIN_SECONDS))
        finally:
            await supervisor.close()
            await monitor.close()
        rules = replace(RULES, order_ttl=timedelta(seconds=scenario.order_ttl_seconds))
        return await check(deployment, options, generator, violations, [], say, rules)


def is_found(scenario: Scenario, result: Result) -> bool:
    """Say whether the checker went red for the reason that the scenario is about."""
    return not scenario.finds.isdisjoint(violation.kind for violation in result.violations)


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


async def _producer_repeats(context: Context) -> None:
    """A producer repeats its adjustments after they were applied."""
    context.supervisor.start_worker()
    await context.publish(_products(8, 50))
    await context.until_applied()
    adjustments = await context.publish(_adjustments("a", 16))
    await context.until_applied()
    await context.repeat(adjustments)


async def _killed_in_the_transaction(context: Context) -> None:
    """A worker is killed after it took a batch and before PostgreSQL committed it."""
    worker = context.supervisor.start_worker()
    await context.publish(_products(8, 50))
    await context.until_applied()
    async with context.locked_table("inventory"):
        await context.publish(_adjustments("a", 16))
        # The whole worker never gets there: it has had its time when the lock would time out.
        await context.until_committed(6.0)
        worker.send(signal.SIGKILL)
        await asyncio.sleep(0.2)
    await context.publish(_adjustments("b", 8))


async def _odd_headers(context: Context) -> None:
    """Records with headers that are no text lie among good ones when the worker starts."""
    await context.publish(_products(8, 50))
    await context.publish(
        [("cart.updated", "bad", {"cart_id": "bad", "items": []})], spoil="null header", expects=("decode_error",)
    )
    await context.publish(_adjustments("a", 16))
    context.supervisor.start_worker()
    await asyncio.sleep(8)
    await context.publish([("cart.updated", f"c{n}", {"cart_id": f"c{n}", "items": []}) for n in range(16)])
    await context.publish(_products(16, 1)[8:])
    await context.publish(_adjustments("b", 16))


async def _paid_while_all_were_down(context: Context) -> None:
    """All workers are down for longer than a hold lasts, and the payments wait in Kafka."""
    worker = context.supervisor.start_worker()
    await context.publish(_products(8, 50))
    await context.until_applied()
    orders = _orders(16)
    await context.publish(orders)
    await context.until_applied()
    worker.kill()
    await context.publish(
        ("payment.succeeded", f"{data['order_id']}-paid", {"order_id": data["order_id"]}) for _, _, data in orders
    )
    await asyncio.sleep(7.0)
    worker.start()


async def _carts_ordered_while_refreshed(context: Context) -> None:
    """Carts are refreshed by one worker while the other takes them over for their orders."""
    for _ in range(2):
        context.supervisor.start_worker()
    await context.publish(_products(8, 500))
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

    await context.until_assigned()
    await context.publish(refreshed(1))
    await context.until_applied()
    async with context.locked_table("inbox", "EXCLUSIVE"):
        await context.publish(
            ("order.created", f"{order}-created", {"order_id": order, "cart_id": cart, "items": items})
            for order, cart, items in zip(orders, carts, (data["items"] for _, _, data in refreshed(1)), strict=True)
        )
        await asyncio.sleep(1.5)
        await context.publish(refreshed(2))
        await asyncio.sleep(1.5)


def _ids(dead_letter: str, partitions: set[int], count: int) -> list[str]:
    """Return ids whose records the producer puts into these partitions (librdkafka: CRC-32 of the key)."""
    found = (
        f"{dead_letter}{n}" for n in itertools.count() if crc32(f"{dead_letter}{n}".encode()) % PARTITIONS in partitions
    )
    return list(itertools.islice(found, count))


async def _killed_after_the_commit(context: Context) -> None:
    """A worker is killed right after PostgreSQL committed its batch."""
    worker = context.supervisor.start_worker()
    await context.publish(_products(8, 50))
    await context.until_applied()
    await asyncio.sleep(2.0)
    await context.publish(_orders(24))
    await context.until_applied()
    worker.send(signal.SIGKILL)


SCENARIOS = (
    Scenario("inbox_off", frozenset({"double_applied"}), _producer_repeats),
    Scenario("offsets_first", frozenset({"lost"}), _killed_in_the_transaction),
    Scenario("stock_parser", frozenset({"lost"}), _odd_headers),
    Scenario(
        "wall_clock",
        frozenset({"expired_though_paid"}),
        _paid_while_all_were_down,
        {"INVENTORY_ORDER_RESERVATION_TTL": "6s"},
        6.0,
    ),
    Scenario("no_locks", frozenset({"ledger", "cart", "oversold"}), _carts_ordered_while_refreshed),
    Scenario("no_outbox", frozenset({"outcome_missing", "low_stock_missing"}), _killed_after_the_commit),
)
