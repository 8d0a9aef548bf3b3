# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory stock`: look at stock, correct it, and move it in and out as CSV."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domain.commands import AdjustStock
    from domain.model import Operation
    from inventory.stock import Changed, ImportSummary
    from storage.stock import StockLevel

app = typer.Typer(no_args_is_help=True)

MAX_QUANTITY = 1_000_000
MAX_LIMIT = 100_000
LEVEL_COLUMNS = ("product_id", "on_hand", "reserved", "available", "threshold", "status", "version")


class From(StrEnum):
    """Where stock is read."""

    CACHE = "cache"
    DATABASE = "database"


Product = Annotated[str, typer.Argument(metavar="PRODUCT", help="The product's id.")]
Limit = Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="How many at most.")]
Operator = Annotated[str | None, typer.Option(help="Who does it; without it, the name you are logged in with.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def stock() -> None:
    """Look at stock and correct it."""


@app.command()
def show(
    products: Annotated[
        list[str] | None, typer.Argument(metavar="PRODUCT", help="Only these; without any, all.")
    ] = None,
    *,
    low: Annotated[bool, typer.Option("--low", help="Only products at or below their threshold.")] = False,
    source: Annotated[
        From, typer.Option("--from", help="Where to read; cache needs products or --low.", case_sensitive=False)
    ] = From.DATABASE,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Show stock: on hand, reserved, available, threshold and status.

    What the cache lacks is read from PostgreSQL and left there. Exit code 1 when a product named does not exist.
    """
    import asyncio

    from inventory import stock as work
    from inventory.console import print_json, print_line, print_warning
    from inventory.settings import load_settings

    wanted = [_id(product_id) for product_id in products or ()]
    if source is From.CACHE and (bool(wanted) == low):
        raise typer.BadParameter("the cache needs either products or --low", param_hint="--from")
    settings = load_settings()
    if source is From.CACHE:
        shown = asyncio.run(work.show_cached(settings, wanted, limit))
    else:
        shown = asyncio.run(work.show(settings, wanted, limit, low=low))
    if as_json:
        print_json([level._asdict() for level in shown.levels])
    elif shown.levels:
        _print_levels(shown.levels)
        if shown.total > len(shown.levels):
            print_line(f"{len(shown.levels):,} of {shown.total:,}; --limit shows more, `stock export` writes all")
    elif not shown.unknown:
        print_line("no products are low" if low else "no products")
    for product_id in shown.unknown:
        print_warning(f"there is no product {product_id}")
    if shown.unknown:
        raise typer.Exit(1)


@app.command()
def history(product: Product, *, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show what moved a product's stock, the newest first."""
    import asyncio

    from inventory import stock as work
    from inventory.console import print_json, print_line, print_table, print_warning
    from inventory.settings import load_settings

    rows, level = asyncio.run(work.history(load_settings(), _id(product), limit))
    if level is None:
        print_warning(f"there is no product {product}")
        raise typer.Exit(1)
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    if not rows:
        print_line("nothing has moved yet")
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
    add: Annotated[int | None, typer.Option(min=1, max=MAX_QUANTITY, metavar="N", help="Pieces that came in.")] = None,
    subtract: Annotated[
        int | None, typer.Option(min=1, max=MAX_QUANTITY, metavar="N", help="Pieces that are gone.")
    ] = None,
    set_: Annotated[
        int | None, typer.Option("--set", min=0, max=MAX_QUANTITY, metavar="N", help="Pieces that were counted.")
    ] = None,
    expected_version: Annotated[
        int | None,
        typer.Option(min=1, metavar="V", help="With --set: only if the product still has this version."),
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; the ledger keeps it.")],
    operator: Operator = None,
    as_json: AsJson = False,
) -> None:
    """Correct a product's stock on hand.

    Never below what is reserved. Exit code 1 when the change is refused; nothing has changed then.
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
        raise typer.BadParameter("goes with --set only", param_hint="--expected-version")
    _change(_adjustment(product, reason, operator, operation, quantity, expected_version), as_json=as_json)


@app.command()
def threshold(
    product: Product,
    pieces: Annotated[
        int, typer.Argument(metavar="N", min=0, max=MAX_QUANTITY, help="At or below this the product is low.")
    ],
    *,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why.")] = None,
    operator: Operator = None,
    as_json: AsJson = False,
) -> None:
    """Set a product's low-stock threshold.

    The status is judged anew at once.
    """
    command = _adjustment(product, reason, operator)
    from dataclasses import replace

    _change(replace(command, threshold=pieces), as_json=as_json)


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.csv[.gz]",
            help="Columns product_id, quantity and, if you like, low_stock_threshold; others are ignored.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ],
    *,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; without it, the file's name.")] = None,
    operator: Operator = None,
    as_json: AsJson = False,
) -> None:
    """Set the stock of products from a CSV file.

    Products that are not known are made. The file is checked whole before anything is written. The same file again
    changes nothing, so an import that was interrupted is simply run again. Exit code 1 when a row is refused (less on
    hand than reserved).
    """
    import asyncio

    from inventory import stock as work
    from inventory.console import print_json, print_warning, progress
    from inventory.settings import load_settings

    settings = load_settings()
    options = work.ImportOptions(_text(reason) or f"import of {file.name}", _operator(operator))
    with progress() as show_progress:
        summary = asyncio.run(work.import_stock(settings, file, options, show_progress))
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
        Path | None, typer.Argument(metavar="[FILE.csv]", help="Where to; without it, standard output.", dir_okay=False)
    ] = None,
) -> None:
    """Write all products as CSV.

    As they are at one moment; `stock import` reads it.
    """
    import asyncio
    import sys

    from inventory import stock as work
    from inventory.console import print_line, progress
    from inventory.settings import load_settings

    settings = load_settings()
    if file is None:
        asyncio.run(work.export(settings, sys.stdout, lambda *_: None))
        return
    with progress() as show_progress:
        count = asyncio.run(work.export_to_file(settings, file, show_progress))
    print_line(f"{count:,} products written to {file}")


def _adjustment(
    product: str,
    reason: str | None,
    operator: str | None,
    operation: "Operation | None" = None,
    quantity: int = 0,
    expected_version: int | None = None,
) -> "AdjustStock":
    from domain.commands import AdjustStock
    from inventory.stock import new_cause

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

    from inventory import stock as work
    from inventory.console import print_json, print_warning
    from inventory.settings import load_settings

    changed = asyncio.run(work.change(load_settings(), command))
    if as_json:
        print_json(_as_dict(changed))
    elif changed.level is not None and not changed.refused:
        _print_levels([changed.level])
    if changed.refused:
        print_warning(work.refusal_in_words(changed.verdict, command.product_id))
        raise typer.Exit(1)


def _as_dict(changed: "Changed") -> dict[str, object]:
    return {
        # A change that was tried again after a cut connection is a duplicate of itself: it was applied.
        "outcome": "refused" if changed.refused else "applied",
        "reason": changed.verdict.reason,
        "message": changed.verdict.message,
        "stock": None if changed.level is None else changed.level._asdict(),
    }


def _print_levels(levels: "Sequence[StockLevel]") -> None:
    from inventory.console import print_table

    print_table(LEVEL_COLUMNS, levels)


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
        # A container's user need not have a name.
        return "unknown"


def _id(product_id: str) -> str:
    from inventory.stock import id_trouble

    if trouble := id_trouble(product_id):
        raise typer.BadParameter(f"the id {trouble}", param_hint="PRODUCT")
    return product_id


def _text(text: str | None) -> str | None:
    """Refuse what PostgreSQL cannot hold: a terminal can hand over bytes that are no UTF-8."""
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("is not valid UTF-8") from None
    return text
