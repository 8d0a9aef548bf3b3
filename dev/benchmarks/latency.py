"""Latency from publishing an event to reading its outcome, at a fixed rate."""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, TopicPartition

from dev.benchmarks import programs
from dev.benchmarks.backlog import QUIET
from dev.benchmarks.comparison import Bench, template_for
from dev.benchmarks.errors import BenchmarkError
from dev.benchmarks.open_loop import number_of
from dev.benchmarks.outbox_lag import OutboxLag
from dev.benchmarks.report import Figure, Section
from dev.benchmarks.workload import steady
from dev.servers.process import ServerProcess
from schemas.topics import RESERVATIONS

_START_IN_SECONDS = 2.0
_PATIENCE_SECONDS = 20.0
_POLL_SECONDS = 0.1
_SHOW_EVERY = 1_000


async def latency(bench: Bench) -> Section:
    """Measure from when an event was due to be published until its outcome was read from Kafka."""
    sizes = bench.sizes
    # Many small batches are a different load than the backlog of the warm-up, so this needs a warm-up of its own.
    warm_up = sizes.rate * sizes.latency_warm_up_seconds
    count = warm_up + sizes.rate * sizes.latency_seconds
    program = programs.worker()
    group = bench.topics.new_group()
    async with template_for(bench, steady(count, sizes.rate)) as template:
        with bench.servers.database(template) as url:
            await programs.begin_where_the_group_begins(bench.topics, group, url)
            with programs.running(program, bench.topics, group, url) as processes:
                alive = programs.check_alive(processes)
                bench.topics.wait_until_stable(group, program.processes, alive)
                async with OutboxLag(url) as lag:
                    waits, late = await asyncio.to_thread(_measure, bench, count, alive)
    milliseconds = sorted(1000 * wait for wait in waits[warm_up:])
    cuts = statistics.quantiles(milliseconds, n=1000, method="inclusive")
    about = f"{sizes.rate:,} events/s for {sizes.latency_seconds} s, from when each was due to its outcome event"
    figures = [
        Figure("p50", "ms", (cuts[499],)),
        Figure("p99", "ms", (cuts[989],)),
        Figure("p99.9", "ms", (cuts[998],)),
        Figure("worst", "ms", (milliseconds[-1],)),
        Figure("worst delay of the generator, included above", "ms", (late,)),
        *lag.figures(),
    ]
    return Section("latency", about, figures)


def _measure(bench: Bench, count: int, alive: Callable[[], None]) -> tuple[list[float], float]:
    """Return each event's latency in seconds, in order, and the generator's worst delay in milliseconds."""
    topics = bench.topics
    receiver = _receiver(topics.bootstrap_servers, topics.prefix + RESERVATIONS)
    start = time.monotonic() + _START_IN_SECONDS
    arguments = (topics.bootstrap_servers, topics.prefix, str(start), str(bench.sizes.rate), str(count))
    with tempfile.TemporaryDirectory(prefix="inventory-bench-") as scratch:
        generator = ServerProcess(
            "the generator",
            [sys.executable, "-m", "dev.benchmarks.open_loop", *arguments],
            log=Path(scratch) / "generator.log",
            environment=programs.clean_environment(),
        )
        try:
            waits = _receive(bench, receiver, start, count, alive)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while generator.running and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            return waits, float(generator.log.read_text())
        finally:
            generator.kill()
            receiver.close()


def _receive(bench: Bench, receiver: Any, start: float, count: int, alive: Callable[[], None]) -> list[float]:  # noqa: ANN401 - confluent-kafka is published without types
    rate = bench.sizes.rate
    waits: list[float | None] = [None] * count
    missing = count
    deadline = start + count / rate + _PATIENCE_SECONDS
    while missing and time.monotonic() < deadline:
        message = receiver.poll(_POLL_SECONDS)
        if message is not None and message.error() is None:
            now = time.monotonic()
            number = number_of(orjson.loads(message.value())["caused_by"])
            if waits[number] is None:
                waits[number] = now - (start + number / rate)
                missing -= 1
                if missing % _SHOW_EVERY == 0:
                    bench.progress("outcomes received", count - missing, count)
        else:
            alive()
    if missing:
        raise BenchmarkError(f"{missing:,} of {count:,} events had no outcome")
    return [wait for wait in waits if wait is not None]


def _receiver(servers: str, topic: str) -> Any:  # noqa: ANN401 - same reason
    """Return a consumer positioned at the end of every partition."""
    receiver = Consumer(
        {
            "bootstrap.servers": servers,
            **QUIET,
            "group.id": f"{topic}-latency",
            "enable.auto.commit": False,
            "auto.offset.reset": "latest",
            "fetch.wait.max.ms": 100,
        }
    )
    partitions = receiver.list_topics(topic, timeout=10).topics[topic].partitions
    places = []
    for number in partitions:
        _, end = receiver.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
        places.append(TopicPartition(topic, number, end))
    receiver.assign(places)
    return receiver
