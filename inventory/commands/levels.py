# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory levels`: the topic with every product's stock."""

from typing import TYPE_CHECKING

import typer

from inventory.commands.arguments import AsJson

if TYPE_CHECKING:
    from inventory.console import ProgressLine
    from inventory.settings import Settings

app = typer.Typer(no_args_is_help=True)


@app.callback()
def levels() -> None:
    """Look after the topic with the stock of every product."""


@app.command()
def republish(
    *,
    as_json: AsJson = False,
) -> None:
    """Write every product's stock to `inventory.levels` again.

    For a topic that was lost, and once after the upgrade to the version that introduced it. Safe while workers run: the
    one that publishes levels publishes these as well.
    """
    import asyncio

    from inventory.console import print_json, print_line, progress
    from inventory.settings import load_settings

    with progress() as show:
        products = asyncio.run(_republish(load_settings(), show))
    if as_json:
        print_json({"products": products})
    else:
        print_line(f"{products:,} products published")


async def _republish(settings: "Settings", show: "ProgressLine") -> int:
    from functools import partial

    from inventory import levels, wiring
    from inventory.database import connection, require_migrated

    async with connection(settings) as opened:
        await require_migrated(opened)
        return await levels.republish(opened, partial(wiring.level_publisher, settings), show)
