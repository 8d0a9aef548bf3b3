# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory levels`: the topic with every product's stock."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def levels() -> None:
    """Look after the topic with the stock of every product."""


@app.command()
def republish(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write every product's stock to `inventory.levels` again.

    For a topic that was lost, and once after the upgrade to the version that introduced it. Safe while workers run: the
    one that publishes levels publishes these as well.
    """
    import asyncio

    from inventory.console import print_json, print_line, progress
    from inventory.levels import republish as run
    from inventory.settings import load_settings

    with progress() as show:
        products = asyncio.run(run(load_settings(), show))
    if as_json:
        print_json({"products": products})
    else:
        print_line(f"{products:,} products published")
