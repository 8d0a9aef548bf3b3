# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory stock`: show stock, correct it, and import and export it as CSV."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.limits import MAX_QUANTITY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domain.commands import AdjustStock
    from domain.model import Operation
    from inventory.settings import Settings
    from inventory.stock.adjusting import Adjusted
    from inventory.stock.importing import ImportPlan, ImportSummary
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
Operator = Annotated[str | None, typer.Option(help="Who makes the change; your login name if not given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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

    requested = [_id(product_id) for product_id in products or ()]
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

    rows, level = asyncio.run(_read_history(load_settings(), _id(product), limit))
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
    add: Annotated[int | None, typer.Option(min=1, max=MAX_QUANTITY, metavar="N", help="Units that came in.")] = None,
    subtract: Annotated[
        int | None, typer.Option(min=1, max=MAX_QUANTITY, metavar="N", help="Units that are gone.")
    ] = None,
    set_: Annotated[
        int | None, typer.Option("--set", min=0, max=MAX_QUANTITY, metavar="N", help="Units that were counted.")
    ] = None,
    expected_version: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="V", help="With --set: refuse the change unless the product still has this version."
        ),
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; recorded in the ledger.")],
    operator: Operator = None,
    as_json: AsJson = False,
) -> None:
    """Correct a product's stock on hand.

    It cannot go below what is reserved. Exit code 1 if the change is refused; nothing is changed then.
    """
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
    _change(_adjustment(product, reason, operator, operation, quantity, expected_version), as_json=as_json)


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
    command = _adjustment(product, reason, operator)
    from dataclasses import replace

    _change(replace(command, threshold=units), as_json=as_json)


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.csv[.gz]",
            help="Columns product_id, quantity and optionally low_stock_threshold; others are ignored.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ],
    *,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; the file's name if not given.")] = None,
    operator: Operator = None,
    as_json: AsJson = False,
) -> None:
    """Set the stock of products from a CSV file.

    Products that do not exist are created. The whole file is checked before anything is changed. Rows that equal the
    stock change nothing, so run an interrupted import again. Exit code 1 if a row is refused (less on hand than
    reserved).
    """
    import asyncio

    from inventory.console import print_json, print_warning
    from inventory.settings import load_settings
    from inventory.stock.importing import plan_import

    settings = load_settings()
    plan = plan_import(file, _text(reason) or f"import of {file.name}", _operator(operator))
    summary = asyncio.run(_import(settings, plan))
    if as_json:
        from dataclasses import asdict

        print_json(asdict(summary))
    else:
        _print_summary(summary)
    for refusal in summary.refusals:
        print_warning(refusal)
    if summary.refused:
        raise typer.Exit(1)


@app.command()
def export(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE.csv]", help="File to write; standard output if not given.", dir_okay=False),
    ] = None,
) -> None:
    """Write all products as CSV.

    One snapshot of all products, in the form that `inventory stock import` reads.
    """
    import asyncio

    from inventory.console import print_line
    from inventory.settings import load_settings

    count = asyncio.run(_export(load_settings(), file))
    if file is not None:
        print_line(f"{count:,} products written to {file}")


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
    from inventory.settings import variable
    from inventory.stock.adjusting import SOURCE
    from inventory.stock.reading import read_cached_levels

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


async def _import(settings: "Settings", plan: "ImportPlan") -> "ImportSummary":
    from inventory.cache import open_cache
    from inventory.console import progress
    from inventory.database import migrated_pool
    from inventory.policy import policy_of
    from inventory.stock.adjusting import SOURCE
    from inventory.stock.importing import import_stock

    with progress() as show_progress:
        async with open_cache(settings) as cache, migrated_pool(settings, SOURCE) as pool:
            return await import_stock(pool, policy_of(settings), cache, plan, show_progress)


async def _export(settings: "Settings", file: Path | None) -> int:
    import sys

    from inventory.console import progress
    from inventory.database import connection
    from inventory.stock.exporting import export_stock, whole_file

    if file is None:
        async with connection(settings) as opened:
            return await export_stock(opened, sys.stdout, lambda *_: None)
    with progress() as show_progress, whole_file(file) as output:
        async with connection(settings) as opened:
            return await export_stock(opened, output, show_progress)


def _adjustment(
    product: str,
    reason: str | None,
    operator: str | None,
    operation: "Operation | None" = None,
    quantity: int = 0,
    expected_version: int | None = None,
) -> "AdjustStock":
    from domain.commands import AdjustStock
    from inventory.stock.adjusting import new_cause

    return AdjustStock(
        new_cause(),
        _id(product),
        operation,
        quantity,
        reason=_text(reason),
        operator=_operator(operator),
        expected_version=expected_version,
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
        # A retry after a lost connection may be a duplicate of the first attempt, which was applied.
        "outcome": "refused" if adjusted.refused else "applied",
        "reason": adjusted.verdict.reason,
        "message": adjusted.verdict.message,
        "stock": None if adjusted.level is None else adjusted.level._asdict(),
    }


def _print_levels(levels: "Sequence[StockLevel]") -> None:
    from inventory.console import print_table

    print_table(LEVEL_COLUMNS, [level[: len(LEVEL_COLUMNS)] for level in levels])


def _print_summary(summary: "ImportSummary") -> None:
    from inventory.console import print_table

    counts = ("rows", "created", "changed", "unchanged", "refused")
    print_table(("what", "count"), [(name, getattr(summary, name)) for name in counts])


def _operator(name: str | None) -> str:
    import getpass

    if name is not None:
        return _text(name) or ""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A user id in a container may have no name.
        return "unknown"


def _id(product_id: str) -> str:
    from inventory.identifiers import id_problem

    if problem := id_problem(product_id):
        raise typer.BadParameter(f"the id {problem}", param_hint="PRODUCT")
    return product_id


def _text(text: str | None) -> str | None:
    """Refuse text that is not UTF-8, which a terminal may pass on and PostgreSQL cannot store."""
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("is not valid UTF-8") from None
    return text
