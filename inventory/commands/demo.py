# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory demo`: watch the worker on a lively shop, with servers that need no installation."""

from typing import Annotated

import typer

MAX_SECONDS = 3600
MAX_RATE = 2000


def demo(
    *,
    seconds: Annotated[int, typer.Option(min=1, max=MAX_SECONDS, help="How long the demo runs.")] = 15,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the traffic: the same number gives the same events.")] = 7,
    rate: Annotated[int, typer.Option(min=1, max=MAX_RATE, help="Approximate number of events per second.")] = 150,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave servers and worker running until Ctrl-C, and print their addresses.")
    ] = False,
) -> None:
    """Watch the worker on a lively shop, with embedded servers.

    Starts PostgreSQL, Redis and a mock Kafka broker on this machine, runs the real worker over carts, orders, payments,
    cancellations, refunds, duplicates and broken records, and ends with a summary and `audit: ok`. Exit code 1 if the
    audit fails or an event is missing. On a pipe, or with NO_COLOR or CI set, it prints plain lines.
    """
    import importlib
    import importlib.util

    from inventory.console import print_line
    from inventory.errors import OperatorError

    # By name: nothing that ships imports the development servers.
    if importlib.util.find_spec("dev") is None:
        raise OperatorError(
            "`inventory demo` runs from a checkout of the project only: clone the repository and run `make demo` in it"
        )
    # Said before the imports, which take a second.
    print_line("inventory demo: a simulated shop, the real worker, embedded servers\n")
    demo_run = importlib.import_module("dev.demo.run")
    raise typer.Exit(demo_run.run(demo_run.Options(seed=seed, seconds=seconds, rate=rate, keep=keep)))
