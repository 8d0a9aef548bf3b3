"""One scenario per safeguard: green with the complete worker, red with that safeguard removed."""

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
from dev.chaos.schedule import Publication
from dev.chaos.supervisor import Supervisor
from dev.chaos.workload import Workload

APPLY_SECONDS = 60.0
DRAIN_SECONDS = 20.0
POLL_SECONDS = 0.05


@dataclass(slots=True)
class Context:
    """What the steps of a scenario work with."""

    deployment: Deployment
    supervisor: Supervisor
    monitor: ProgressMonitor
    generator: Generator
    numbers: int = 0

    async def publish(self, events: Iterable[tuple[str, str, Mapping[str, Any]]], **more: Any) -> list[Publication]:  # noqa: ANN401 - fields of a publication
        """Publish events given as topic, id and data, and wait for the acknowledgements."""
        publications = []
        for topic, event_id, data in events:
            self.numbers += 1
            key = str(data.get("order_id") or data.get("cart_id") or data.get("product_id"))
            publications.append(Publication(topic, key, event_id, data, number=self.numbers, **more))
        await self.generator.publish(publications)
        return publications

    async def repeat(self, publications: Iterable[Publication]) -> None:
        """Publish the same events again, like a producer that missed the acknowledgement."""
        await self.generator.publish(
            replace(publication, copy_of=publication.number, number=publication.number + 10_000)
            for publication in publications
        )

    async def until_applied(self) -> None:
        """Wait until everything published is applied."""
        if await self.monitor.until_applied(self.generator.acknowledged_ends(), APPLY_SECONDS) is None:
            raise ChaosError(f"the worker did not apply the events of a scenario within {APPLY_SECONDS:.0f} s")

    @asynccontextmanager
    async def locked_table(self, table: str, mode: str = "ACCESS EXCLUSIVE") -> AsyncIterator[None]:
        """Lock a table, so that a running batch blocks before its commit."""
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
            # The first requests may fail until a coordinator is elected.
            with contextlib.suppress(KafkaException, TimeoutError):
                group = await asyncio.to_thread(described[self.deployment.group_id].result, 6)
                if sum(bool(member.assignment.topic_partitions) for member in group.members) == len(
                    self.supervisor.workers
                ):
                    return
            await asyncio.sleep(POLL_SECONDS * 4)
        raise ChaosError(f"not every worker had partitions within {APPLY_SECONDS:.0f} s")

    async def until_committed(self, seconds: float) -> bool:
        """Wait until the group has committed the offsets of everything published; false on time-out."""
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
                await asyncio.sleep(POLL_SECONDS)
        finally:
            consumer.close()
        return False


@dataclass(frozen=True, slots=True)
class Scenario:
    """`finds`: the kinds of violation of which any proves that `ablation` was detected."""

    ablation: str
    finds: frozenset[str]
    steps: Callable[[Context], Awaitable[None]]
    settings: Mapping[str, str] = field(default_factory=dict)
    order_ttl_seconds: float = 12.0


async def run_scenario(servers: Servers, scenario: Scenario, ablation: str, options: Options, say: Say) -> Result:
    """Run a scenario with a worker that lacks the safeguard `ablation`, and check the evidence."""
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
    """Tell whether the checker reported a violation that the scenario is meant to provoke."""
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
    """A worker is killed after it read a batch and before PostgreSQL committed it."""
    worker = context.supervisor.start_worker()
    await context.publish(_products(8, 50))
    await context.until_applied()
    async with context.locked_table("inventory"):
        await context.publish(_adjustments("a", 16))
        # Only the ablated worker commits offsets here; the complete one is blocked, for less than its lock timeout.
        await context.until_committed(6.0)
        worker.send(signal.SIGKILL)
        await asyncio.sleep(0.2)
    await context.publish(_adjustments("b", 8))


async def _odd_headers(context: Context) -> None:
    """Records with binary headers are among valid ones when the worker starts."""
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
    """The worker is down for longer than a hold lasts while the payments are in Kafka."""
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
    """One worker updates carts while the other converts them for their orders."""
    for _ in range(2):
        context.supervisor.start_worker()
    await context.publish(_products(8, 500))
    # Each worker has the same half of every topic, so these carts go to one worker and their orders to the other.
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
    """Return ids whose records librdkafka's partitioner (CRC-32 of the key) assigns to these partitions."""
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
