# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory stock`: shows stock and corrects it; `stock_files` imports and exports it."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from inventory.commands import stock_files
from inventory.commands.arguments import AsJson, Operator, checked_id, checked_operator, checked_text
from schemas.limits import MAX_ON_HAND, MAX_QUANTITY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domain.commands import AdjustStock
    from inventory.settings import Settings
    from inventory.stock.adjusting import Adjusted
    from inventory.stock.reading import StockList
    from storage.stock import LedgerRow, StockLevel

app = typer.Typer(no_args_is_help=True)

MAX_LIMIT = 100_000
LEVEL_COLUMNS = ("product_id", "on_hand", "reserved", "available", "threshold", "status", "version")


class StockSource(StrEnum):
    """Where stock is read."""

    CACHE = "cache"
    DATABASE = "database"


Product = Annotated[str, typer.Argument(metavar="PRODUCT", help="The product's id.")]
Limit = Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="Most rows to show.")]


@app.callback()
def stock() -> None:
    """Show stock, correct it, import and export it."""


@app.command()
def show(
    products: Annotated[
        list[str] | None, typer.Argument(metavar="PRODUCT", help="Products to show; all if none is given.")
    ] = None,
    *,
    low: Annotated[bool, typer.Option("--low", help="Only products at or below their threshold.")] = False,
    source: Annotated[
        StockSource,
        typer.Option("--from", help="Where to read; the cache needs products or --low.", case_sensitive=False),
    ] = StockSource.DATABASE,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Show stock: on hand, reserved, available, threshold and status.

    What the cache does not have is read from PostgreSQL and cached. Exit code 1 if a named product does not exist.
    """
    import asyncio

    from inventory.console import print_json, print_line, print_warning
    from inventory.settings import load_settings

    requested = [checked_id(product_id, "PRODUCT") for product_id in products or ()]
    if source is StockSource.CACHE and (bool(requested) == low):
        raise typer.BadParameter("the cache needs either products or --low", param_hint="--from")
    settings = load_settings()
    if source is StockSource.CACHE:
        shown = asyncio.run(_read_cached(settings, requested, limit))
    else:
        shown = asyncio.run(_read(settings, requested, limit, low=low))
    if as_json:
        print_json([level._asdict() for level in shown.levels])
    elif shown.levels:
        _print_levels(shown.levels)
        if shown.total > len(shown.levels):
            print_line(
                f"{len(shown.levels):,} of {shown.total:,}; --limit shows more, `inventory stock export` writes all"
            )
    elif not shown.unknown:
        print_line("no products are low" if low else "no products")
    for product_id in shown.unknown:
        print_warning(f"there is no product {product_id}")
    if shown.unknown:
        raise typer.Exit(1)


@app.command()
def history(product: Product, *, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show a product's ledger entries, the newest first."""
    import asyncio

    from inventory.console import print_json, print_line, print_table, print_warning
    from inventory.settings import load_settings

    rows, level = asyncio.run(_read_history(load_settings(), checked_id(product, "PRODUCT"), limit))
    if level is None:
        print_warning(f"there is no product {product}")
        raise typer.Exit(1)
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    if not rows:
        print_line("the ledger has no entries for this product")
        return
    print_table(
        ("sequence", "occurred_at", "type", "quantity", "on_hand", "reserved", "for", "operator", "reason"),
        [
            (
                row.sequence,
                row.occurred_at.isoformat(timespec="seconds"),
                row.type,
                row.quantity,
                f"{row.on_hand_before} -> {row.on_hand_after}",
                f"{row.reserved_before} -> {row.reserved_after}",
                f"{row.reference_type} {row.reference_id}",
                row.operator,
                row.reason,
            )
            for row in rows
        ],
    )
    if level.version and rows[-1].sequence > 1:
        print_line(f"{len(rows):,} of {rows[0].sequence:,}; --limit shows more")


@app.command()
def adjust(  # noqa: PLR0913 - one parameter per option
    product: Product,
    *,
    add: Annotated[int | None, typer.Option(min=1, max=MAX_ON_HAND, metavar="N", help="Units that came in.")] = None,
    subtract: Annotated[
        int | None, typer.Option(min=1, max=MAX_ON_HAND, metavar="N", help="Units that are gone.")
    ] = None,
    set_: Annotated[
        int | None, typer.Option("--set", min=0, max=MAX_ON_HAND, metavar="N", help="Units that were counted.")
    ] = None,
    expected_version: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="V", help="With --set: refuse the change unless the product still has this version."
        ),
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="KEY", help="Identity of this change: a retry with the same id is not applied again."
        ),
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; recorded in the ledger.")],
    operator: Operator = None,
    as_json: AsJson = False,
) -> None:
    """Correct a product's stock on hand.

    It cannot go below what is reserved. Exit code 1 if the change is refused; nothing is changed then. A script that
    may retry gives each change an --id: for as long as the inbox remembers it (INVENTORY_INBOX_RETENTION), a repeat
    changes nothing and reports what became of the first attempt.
    """
    from dataclasses import replace

    from domain.model import Operation

    given = [
        (operation, quantity)
        for operation, quantity in ((Operation.ADD, add), (Operation.SUBTRACT, subtract), (Operation.SET, set_))
        if quantity is not None
    ]
    if len(given) != 1:
        raise typer.BadParameter("give exactly one of --add, --subtract and --set")
    operation, quantity = given[0]
    if expected_version is not None and operation is not Operation.SET:
        raise typer.BadParameter("works with --set only", param_hint="--expected-version")
    command = _adjustment(product, reason, operator, request_id)
    change = replace(command, operation=operation, quantity=quantity, expected_version=expected_version)
    _change(change, as_json=as_json)


@app.command()
def threshold(
    product: Product,
    units: Annotated[
        int, typer.Argument(metavar="N", min=0, max=MAX_QUANTITY, help="The product is low when no more are available.")
    ],
    *,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why.")] = None,
    operator: Operator = None,
    as_json: AsJson = False,
) -> None:
    """Set a product's low-stock threshold.

    Its stock status is judged again at once.
    """
    from dataclasses import replace

    command = _adjustment(product, reason, operator)
    _change(replace(command, threshold=units), as_json=as_json)


async def _read(settings: "Settings", product_ids: "Sequence[str]", limit: int, *, low: bool) -> "StockList":
    from inventory.database import connection
    from inventory.stock.reading import read_levels

    async with connection(settings) as opened:
        return await read_levels(opened, product_ids, limit, low=low)


async def _read_cached(settings: "Settings", product_ids: "Sequence[str]", limit: int) -> "StockList":
    from datetime import UTC, datetime

    from engine.reading import StockReader
    from inventory.cache import open_cache
    from inventory.database import pool
    from inventory.errors import OperatorError
    from inventory.stock.adjusting import SOURCE
    from inventory.stock.reading import read_cached_levels
    from inventory.variables import variable

    async with open_cache(settings) as cache:
        if cache is None:
            raise OperatorError(f"there is no cache: set {variable('redis_url')}")
        async with pool(settings, SOURCE) as opened:
            return await read_cached_levels(StockReader(opened, cache, lambda: datetime.now(UTC)), product_ids, limit)


async def _read_history(
    settings: "Settings", product_id: str, limit: int
) -> "tuple[list[LedgerRow], StockLevel | None]":
    from inventory.database import connection
    from inventory.stock.reading import read_history

    async with connection(settings) as opened:
        return await read_history(opened, product_id, limit)


async def _adjust(settings: "Settings", command: "AdjustStock") -> "Adjusted":
    from inventory.cache import open_cache
    from inventory.database import migrated_pool
    from inventory.policy import policy_of
    from inventory.stock.adjusting import SOURCE, adjust

    async with open_cache(settings) as cache, migrated_pool(settings, SOURCE) as pool:
        return await adjust(pool, policy_of(settings), cache, command)


def _adjustment(product: str, reason: str | None, operator: str | None, request_id: str | None = None) -> "AdjustStock":
    from domain.commands import AdjustStock
    from inventory.stock.adjusting import new_cause

    return AdjustStock(
        new_cause(None if request_id is None else checked_id(request_id, "--id")),
        checked_id(product, "PRODUCT"),
        reason=checked_text(reason),
        operator=checked_operator(operator),
    )


def _change(command: "AdjustStock", *, as_json: bool) -> None:
    import asyncio

    from inventory.console import print_json, print_warning
    from inventory.settings import load_settings
    from inventory.stock.adjusting import describe_refusal

    adjusted = asyncio.run(_adjust(load_settings(), command))
    if as_json:
        print_json(_as_dict(adjusted))
    elif adjusted.level is not None and not adjusted.refused:
        _print_levels([adjusted.level])
    if adjusted.refused:
        print_warning(describe_refusal(adjusted.verdict, command.product_id))
        raise typer.Exit(1)


def _as_dict(adjusted: "Adjusted") -> dict[str, object]:
    return {
        "outcome": "refused" if adjusted.refused else "applied",
        "repeated": adjusted.repeated,
        "reason": adjusted.verdict.reason,
        "message": adjusted.verdict.message,
        "stock": None if adjusted.level is None else adjusted.level._asdict(),
    }


def _print_levels(levels: "Sequence[StockLevel]") -> None:
    from inventory.console import print_table

    print_table(LEVEL_COLUMNS, [level[: len(LEVEL_COLUMNS)] for level in levels])


app.command("import")(stock_files.import_)
app.command("export")(stock_files.export)
