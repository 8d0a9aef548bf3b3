"""`python -m benchmarks`: run the scenarios and print one table."""

import argparse
import asyncio
import os
import platform
import sys
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.backlog import Topics
from benchmarks.errors import BenchmarkError
from benchmarks.races import Bench
from benchmarks.report import Section, as_json, as_text
from benchmarks.scenarios import SCENARIOS
from benchmarks.stack import CACHE, Stack, open_stack
from inventory.console import Progress, print_json, print_line, progress

PARTITIONS = 8
DATA = Path(__file__).parent.parent.parent / "shared" / "data"


def main() -> int:
    """Run what the command line asks for; 0 when it was measured, 2 when it could not be."""
    options = _options()
    try:
        # The servers start outside the event loop: migrating the database runs one of its own.
        with progress() as show, open_stack(options.directory) as stack:
            sections = uvloop.run(_run(options, stack, show))
            machine = _machine(stack)
    except BenchmarkError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if options.json:
        print_json(as_json(sections, machine))
    else:
        print_line(as_text(sections, machine))
    return 0


async def _run(options: argparse.Namespace, stack: Stack, show: Progress) -> list[Section]:
    topics = Topics(stack.broker.bootstrap_servers, PARTITIONS)
    await topics.create()
    bench = Bench(stack, topics, options.rounds, options.events, options.naive_events, show, options.data)
    try:
        return [await SCENARIOS[name](bench) for name in options.scenarios]
    finally:
        topics.delete()


def _machine(stack: Stack) -> dict[str, Any]:
    postgres = stack.postgres.sql("SELECT split_part(version(), ' ', 2)")
    durability = ", ".join(f"{name} {stack.postgres.sql(f'SHOW {name}')}" for name in ("fsync", "synchronous_commit"))
    return {
        "broker": stack.broker.description,
        "postgresql": f"{postgres} ({durability})",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--naive-events", type=int, default=2_000)
    parser.add_argument("--directory", type=Path, default=CACHE / "postgres")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.scenarios = options.scenarios or list(SCENARIOS)
    return options


if __name__ == "__main__":
    sys.exit(main())
