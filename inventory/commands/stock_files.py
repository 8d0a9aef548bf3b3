# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory stock import` and `inventory stock export`: stock as CSV."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inventory.commands.arguments import AsJson, Operator, checked_id, checked_operator, checked_text

if TYPE_CHECKING:
    from inventory.settings import Settings
    from inventory.stock.importing import ImportPlan, ImportSummary
    from inventory.stock.previewing import ImportPreview

COUNTS = ("rows", "applied_before", "created", "changed", "unchanged", "refused")


def import_(  # noqa: PLR0913 - one parameter per option
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.csv[.gz]",
            help="Columns product_id, quantity and optionally low_stock_threshold and expected_version; others are "
            "ignored.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ],
    *,
    import_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Identity of this import; the file's content if not given.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Import a file again that was imported before: a new count, same numbers.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change; nothing is changed.")] = False,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; the file's name if not given.")] = None,
    operator: Operator = None,
    as_json: AsJson = False,
) -> None:
    """Set the stock of products from a CSV file.

    Products that do not exist are created. The whole file is checked before anything is changed. Each row of an import
    is applied once: an interrupted import goes on where it stopped, and a file that was imported before changes nothing
    unless --again or a new --import-id says that it is meant. Exit code 1 if a row is refused: less on hand than
    reserved, or another version than expected.
    """
    import asyncio

    from inventory.settings import load_settings
    from inventory.stock.import_file import check_file
    from inventory.stock.importing import ImportPlan

    if import_id is not None and again:
        raise typer.BadParameter("an --import-id that was not used before imports a file again", param_hint="--again")
    settings = load_settings()
    plan = ImportPlan(
        check_file(file),
        checked_text(reason) or f"import of {file.name}",
        checked_operator(operator),
        None if import_id is None else checked_id(import_id, "--import-id"),
        again,
    )
    if dry_run:
        _print_preview(asyncio.run(_preview(settings, plan)), as_json=as_json)
    else:
        _print_summary(asyncio.run(_import(settings, plan)), as_json=as_json)


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


async def _import(settings: "Settings", plan: "ImportPlan") -> "ImportSummary":
    from inventory.cache import open_cache
    from inventory.console import progress
    from inventory.database import migrated_pool
    from inventory.policy import policy_of
    from inventory.stock.importing import SOURCE, import_stock

    with progress() as show_progress:
        async with open_cache(settings) as cache, migrated_pool(settings, SOURCE) as pool:
            return await import_stock(pool, policy_of(settings), cache, plan, show_progress)


async def _preview(settings: "Settings", plan: "ImportPlan") -> "ImportPreview":
    from inventory.console import progress
    from inventory.database import connection, require_migrated
    from inventory.policy import policy_of
    from inventory.stock.previewing import preview_import

    with progress() as show_progress:
        async with connection(settings) as opened:
            await require_migrated(opened)
            return await preview_import(opened, policy_of(settings), plan, show_progress)


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


def _print_summary(summary: "ImportSummary", *, as_json: bool) -> None:
    """Print what became of the rows; exit code 1 if one was refused."""
    from dataclasses import asdict

    from inventory.console import print_json, print_line, print_warning

    if as_json:
        print_json(asdict(summary))
    elif summary.finished_before is not None:
        print_line(
            f"this file was imported at {summary.finished_before:%Y-%m-%d %H:%M:%S %Z} (import {summary.import_id}): "
            "nothing was changed; --again imports it again"
        )
    else:
        _print_counts(summary)
    for refusal in summary.refusals:
        print_warning(refusal)
    if summary.refused:
        raise typer.Exit(1)


def _print_preview(preview: "ImportPreview", *, as_json: bool) -> None:
    """Print what an import would do; exit code 1 if a row would be refused."""
    from dataclasses import asdict

    from inventory.console import print_json, print_line, print_table

    if as_json:
        print_json({**asdict(preview), "changes": [change._asdict() for change in preview.changes]})
    else:
        if preview.changes:
            print_table(
                ("line", "product_id", "on_hand", "threshold", "effect"),
                [
                    (
                        change.line,
                        change.product_id,
                        _step(change.on_hand_before, change.on_hand_after),
                        _step(change.threshold_before, change.threshold_after),
                        change.effect,
                    )
                    for change in preview.changes
                ],
            )
        hidden = preview.created + preview.changed + preview.refused - len(preview.changes)
        if hidden:
            print_line(f"... and {hidden:,} more")
        _print_counts(preview)
        print_line("dry run: nothing was changed")
    if preview.refused:
        raise typer.Exit(1)


def _print_counts(counted: "ImportSummary | ImportPreview") -> None:
    from inventory.console import print_table

    print_table(("what", "count"), [(name.replace("_", " "), getattr(counted, name)) for name in COUNTS])


def _step(before: int | None, after: int | None) -> str:
    if before == after:
        return "" if after is None else f"{after:,}"
    return f"{'-' if before is None else f'{before:,}'} -> {'-' if after is None else f'{after:,}'}"
