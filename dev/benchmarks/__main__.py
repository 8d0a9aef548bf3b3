"""`python -m dev.benchmarks`: run the scenarios and print one table."""

import argparse
import dataclasses
import sys
from pathlib import Path

import uvloop

from dev.benchmarks.backlog import Topics
from dev.benchmarks.comparison import Bench, warm_up
from dev.benchmarks.errors import BenchmarkError
from dev.benchmarks.machine import PARTITIONS, machine
from dev.benchmarks.report import Section, as_json, as_text
from dev.benchmarks.scenarios import SCENARIOS
from dev.benchmarks.servers import CACHE, Servers, open_servers
from dev.benchmarks.sizes import FULL, QUICK, TRIAL, Sizes
from dev.benchmarks.workload import life_cycle
from inventory.console import ProgressLine, print_json, print_line, progress

DATA = Path(__file__).parents[3] / "shared" / "data"


def main() -> int:
    """Run what the command line asks for; returns 0, or 2 if it could not be measured."""
    options = _options()
    try:
        # Outside the event loop, because the migration runs a loop of its own.
        with progress() as show, open_servers(None if options.trial else options.directory) as servers:
            sections = uvloop.run(_run(options, servers, show))
            about = machine(servers)
    except BenchmarkError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if options.json:
        print_json(as_json(sections, about))
    else:
        print_line(as_text(sections, about))
    return 0


async def _run(options: argparse.Namespace, servers: Servers, show: ProgressLine) -> list[Section]:
    topics = Topics(servers.broker.bootstrap_servers, PARTITIONS)
    await topics.create()
    bench = Bench(servers, topics, _sizes(options), show, options.data)
    found = []
    try:
        await warm_up(bench, life_cycle(bench.sizes.warm_up_events))
        for name in options.scenarios:
            section = await SCENARIOS[name](bench)
            if section is None:
                sys.stderr.write(f"{name}: skipped, {options.data} does not have its file\n")
            else:
                found.append(section)
    finally:
        topics.delete()
    return found


def _sizes(options: argparse.Namespace) -> Sizes:
    sizes = TRIAL if options.trial else QUICK if options.quick else FULL
    changed = {name: value for name in ("rounds", "events") if (value := getattr(options, name)) is not None}
    return dataclasses.replace(sizes, **changed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dev.benchmarks", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; default: all of them"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few minutes instead of a quarter of an hour, with rougher figures"
    )
    parser.add_argument(
        "--trial", action="store_true", help="only check that everything runs; the figures mean nothing"
    )
    parser.add_argument("--rounds", type=int, help="rounds of the comparisons that have ratios")
    parser.add_argument("--events", type=int, help="events of the scenario `life`")
    parser.add_argument("--json", action="store_true", help="print one object instead of text")
    parser.add_argument(
        "--directory", type=Path, default=CACHE / "postgres", help="data directory of PostgreSQL, kept between runs"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the real shop's month")
    options = parser.parse_args()
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"there is no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    options.scenarios = options.scenarios or list(SCENARIOS)
    return options


if __name__ == "__main__":
    sys.exit(main())
