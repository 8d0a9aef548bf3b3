# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory publish`: replays a shop's order history through the worker."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.limits import MAX_QUANTITY

if TYPE_CHECKING:
    from inventory.publisher import Plan, Summary
    from inventory.settings import Settings

ENOUGH = "enough"
EXISTING_PRODUCTS = (
    "products that existed before keep their stock, product.created adds none: if orders of this file are rejected "
    "for lack of stock, add it with `inventory stock adjust` before publishing"
)


def publish(  # noqa: PLR0913 - one parameter per option
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.csv[.gz]",
            help="Columns InvoiceNo, StockCode, Quantity, InvoiceDate, CustomerID; others are ignored.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ],
    *,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0.000001, help="Multiple of real time: 60 replays an hour in a minute; full speed if not given."
        ),
    ] = None,
    initial_stock: Annotated[
        str,
        typer.Option(metavar="N|enough", help="Initial stock of every product; enough: as much as the file needs."),
    ] = ENOUGH,
    threshold: Annotated[
        int | None,
        typer.Option(
            min=0, max=MAX_QUANTITY, help="Low-stock threshold of every product; the worker's default if not given."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the events as JSON lines; nothing is published.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait until the workers have read the products.")
    ] = False,
    wait_timeout: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="Longest wait for the workers to read the products.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Publish a shop's order history from a CSV file.

    The history is replayed as if it happened now. Products are published first; once the workers have read them, each
    invoice's cart.updated, order.created and payment.succeeded follow in the file's order. C invoices become
    cancellations and refunds of the customer's earlier orders. Event ids are derived from the file, so publishing it
    again changes nothing.
    """
    from inventory.publisher import Plan

    plan = Plan(
        path=file,
        speed=speed,
        initial_stock=_stock(initial_stock),
        threshold=threshold,
        wait_timeout_seconds=None if no_wait else wait_timeout,
    )
    if dry_run:
        _print_events(plan)
        return
    from inventory.settings import load_settings

    _print_summary(_run(load_settings(), plan), as_json=as_json)


def _run(settings: "Settings", plan: "Plan") -> "Summary":
    import asyncio
    from functools import partial

    from inventory import kafka, publisher
    from inventory.console import progress

    target = publisher.Target(
        partial(kafka.admin_client, settings),
        partial(kafka.producer, settings),
        settings.kafka_topic_prefix,
        settings.kafka_group_id,
    )
    with progress() as show:
        return asyncio.run(publisher.publish(target, plan, show))


def _print_events(plan: "Plan") -> None:
    from inventory.console import print_line
    from inventory.publisher import dry_run

    for line in dry_run(plan):
        print_line(line)


def _print_summary(summary: "Summary", *, as_json: bool) -> None:
    from inventory.console import print_json, print_line, print_table

    numbers = summary.as_dict()
    if as_json:
        print_json(numbers)
    else:
        print_table(("what", "count"), [(name.replace("_", " "), number) for name, number in numbers.items()])
        print_line(EXISTING_PRODUCTS)


def _stock(text: str) -> int | None:
    if text == ENOUGH:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > len(str(MAX_QUANTITY)) or int(text) > MAX_QUANTITY:
        raise typer.BadParameter(
            f"{text!r} is neither 'enough' nor a number from 0 to {MAX_QUANTITY:,}", param_hint="--initial-stock"
        )
    return int(text)
