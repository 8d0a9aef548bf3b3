"""Whether the worker's memory stays constant."""

import asyncio
from collections.abc import Sequence

import psutil

from dev.benchmarks import programs
from dev.benchmarks.comparison import Bench, template_for
from dev.benchmarks.outbox_lag import OutboxLag
from dev.benchmarks.report import Figure, Section
from dev.benchmarks.workload import life_cycle, utc_now
from dev.servers.process import ServerProcess

SAMPLE_SECONDS = 0.25
_MIB = 1024 * 1024


async def memory(bench: Bench) -> Section:
    """Measure the worker's resident memory during a long backlog."""
    workload = life_cycle(bench.sizes.memory_events)
    samples: list[float] = []

    async def watch(processes: Sequence[ServerProcess]) -> None:
        resident = psutil.Process(processes[0].pid).memory_info
        while True:
            samples.append(resident().rss / _MIB)
            await asyncio.sleep(SAMPLE_SECONDS)

    async with template_for(bench, workload) as template:
        with (
            bench.servers.database(template) as url,
            bench.topics.hidden(workload.records(utc_now()), workload.events, bench.progress) as backlog,
        ):
            async with OutboxLag(url) as lag:
                timed = await programs.time_program(
                    programs.worker(), bench.topics, backlog, url, bench.progress, watch=watch
                )
    half = len(samples) // 2
    figures = [
        Figure("at the start", "MiB", (samples[0],)),
        Figure("half way", "MiB", (samples[half],)),
        Figure("at the end", "MiB", (samples[-1],)),
        Figure("most", "MiB", (max(samples),)),
        Figure("rate", "events/s", (timed.rate,)),
        *lag.figures(),
    ]
    return Section("memory", f"resident memory of one worker over {workload.events:,} events", figures)
