"""`python -m dev.benchmarks.peers`: Medusa's inventory module and the worker reserve the same kind of orders, in turn.

Medusa only reserves an order's lines under its locks in PostgreSQL; the worker also reads its orders from Kafka, writes
a ledger and an inbox, and publishes outcomes. Both run with full durability.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import uvloop

from dev.benchmarks import programs
from dev.benchmarks.backlog import Topics
from dev.benchmarks.comparison import Bench, Contestant, run, template_for
from dev.benchmarks.errors import BenchmarkError
from dev.benchmarks.machine import PARTITIONS, machine
from dev.benchmarks.report import Figure, Section, as_json, as_text, ratio
from dev.benchmarks.servers import CACHE, Servers, open_servers
from dev.benchmarks.sizes import FULL, QUICK
from dev.benchmarks.workload import plain_orders
from inventory.console import ProgressLine, print_json, print_line, progress

HERE = Path(__file__).parent
LINES = 3
PRODUCTS = 10_000
# Medusa's fastest of 1, 4, 8 and 16 concurrent orders on two cores.
CONCURRENCY = 4
_INSTALL_SECONDS = 900
_RUN_SECONDS = 600


def main() -> int:
    """Measure; returns 0, or 2 if it could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m dev.benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of few orders")
    parser.add_argument("--json", action="store_true", help="print one object instead of text")
    options = parser.parse_args()
    try:
        node = _node()
        with progress() as show, open_servers(CACHE / "postgres") as servers:
            section = uvloop.run(_measure(node, servers, show, quick=options.quick))
            about = machine(servers)
    except BenchmarkError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if options.json:
        print_json(as_json([section], about))
    else:
        print_line(as_text([section], about))
    return 0


async def _measure(node: str, servers: Servers, show: ProgressLine, *, quick: bool) -> Section:
    sizes = QUICK if quick else FULL
    topics = Topics(servers.broker.bootstrap_servers, PARTITIONS)
    await topics.create()
    bench = Bench(servers, topics, sizes, show, HERE)
    workload = plain_orders(sizes.events // 2, PRODUCTS, LINES)
    ours: list[float] = []
    theirs: list[float] = []
    try:
        async with template_for(bench, workload) as template:
            for number in range(sizes.rounds):
                show(f"round {number + 1}", 0, 1)
                entry = Contestant("worker", workload, programs.worker(), template=template)
                ours.append((await run(bench, entry)).rate)
                theirs.append(_medusa(node, servers, sizes.naive_events))
                show(f"round {number + 1}: worker {ours[-1]:,.0f}, Medusa {theirs[-1]:,.0f} orders/s", 1, 1)
    finally:
        topics.delete()
    figures = [Figure("worker", "orders/s", tuple(ours)), Figure("medusa", "orders/s", tuple(theirs))]
    about = f"orders of {LINES} lines over {PRODUCTS:,} products, reserved; Medusa with {CONCURRENCY} concurrent orders"
    return Section("peers", about, figures, {"worker/medusa": ratio(*figures)})


def _medusa(node: str, servers: Servers, orders: int) -> float:
    """Return Medusa's orders per second, in a new database."""
    with servers.database("template0") as url:
        arguments = [url, str(orders), str(PRODUCTS), str(LINES), str(CONCURRENCY)]
        finished = subprocess.run(
            [node, "medusa.mjs", *arguments],
            cwd=HERE,
            capture_output=True,
            check=False,
            text=True,
            timeout=_RUN_SECONDS,
        )
    if finished.returncode != 0:
        raise BenchmarkError(f"Medusa failed: {finished.stderr[-2000:]}")
    found = json.loads(finished.stdout.splitlines()[-1])
    if found["reservations"] != found["expected"]:
        raise BenchmarkError(f"Medusa has {found['reservations']} reservations instead of {found['expected']}")
    return float(found["kept"] / found["seconds"])


def _node() -> str:
    """Return the path of Node; installs Medusa's packages the first time."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise BenchmarkError("Medusa needs Node 20 or newer and npm on the path")
    if not (HERE / "node_modules").exists():
        sys.stderr.write("installing Medusa's packages, about 270 MB\n")
        installed = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund"], cwd=HERE, check=False, timeout=_INSTALL_SECONDS
        )
        if installed.returncode != 0:
            raise BenchmarkError("npm could not install Medusa's packages")
    return node


if __name__ == "__main__":
    sys.exit(main())
