"""Imports stock from a CSV file: every product of the file exists afterwards, with the stock that the file says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from domain.commands import AdjustStock, CausedCommand, CreateProduct
from domain.model import Operation, Policy, ReferenceType
from engine.tasks import BatchResult, TaskDisposition
from inventory.console import ProgressLine
from inventory.csv_rows import open_rows
from inventory.errors import OperatorError
from inventory.identifiers import id_problem
from inventory.stock.adjusting import apply_commands, describe_refusal, new_cause, refresh_cache
from schemas.limits import MAX_QUANTITY
from storage.cache import Cache
from storage.database import Pool
from storage.errors import is_unavailable

IMPORT_ROWS_PER_TRANSACTION: Final = 500
MAX_PROBLEMS: Final = 20


class ImportRow(NamedTuple):
    """A row of the file: the product's stock on hand, and its threshold if the file names one."""

    line: int
    product_id: str
    quantity: int
    threshold: int | None


class ImportPlan(NamedTuple):
    """A checked file, and what the ledger will say about its import."""

    path: Path
    rows: int
    reason: str
    operator: str


@dataclass(slots=True)
class ImportSummary:
    """What became of the rows; `refusals` describes the first few."""

    rows: int = 0
    created: int = 0
    changed: int = 0
    unchanged: int = 0
    refused: int = 0
    refusals: list[str] = field(default_factory=list)


def plan_import(path: Path, reason: str, operator: str) -> ImportPlan:
    """Check the whole file; raises OperatorError naming its problems, at most 20."""
    problems: list[str] = []
    lines: dict[str, int] = {}
    for row in _parsed(path):
        if isinstance(row, str):
            problems.append(row)
        elif row.product_id in lines:
            problems.append(f"line {row.line}: {row.product_id} is in line {lines[row.product_id]} already")
        else:
            lines[row.product_id] = row.line
        if len(problems) == MAX_PROBLEMS:
            problems.append("... and perhaps more")
            break
    if problems:
        raise OperatorError("\n".join([f"{path} was not imported:", *problems]))
    return ImportPlan(path, len(lines), reason, operator)


async def import_stock(
    pool: Pool, policy: Policy, cache: Cache | None, plan: ImportPlan, progress: ProgressLine
) -> ImportSummary:
    """Create unknown products and set the stock of known ones, in bounded transactions.

    Raises OperatorError where the file changed since it was checked, or PostgreSQL fails on the way.
    """
    summary = ImportSummary()
    for rows in _chunks(_valid_rows(plan.path), IMPORT_ROWS_PER_TRANSACTION):
        progress("products", summary.rows, plan.rows)
        commands = [command for row in rows for command in _commands(row, plan)]
        try:
            result = await apply_commands(pool, policy, commands)
        except Exception as error:
            if not is_unavailable(error):
                raise
            raise OperatorError(
                f"PostgreSQL failed after {summary.rows:,} of {plan.rows:,} rows ({error}): run the import again; "
                "rows that were applied stay as they are"
            ) from error
        _count(summary, rows, result)
        await refresh_cache(cache, result)
    progress("products", summary.rows, plan.rows)
    return summary


def _valid_rows(path: Path) -> Iterator[ImportRow]:
    for row in _parsed(path):
        if isinstance(row, str):
            raise OperatorError(f"{path}: {row}")
        yield row


def _parsed(path: Path) -> Iterator[ImportRow | str]:
    """Yield each row of the file, or what is wrong with it."""
    rows = open_rows(path)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    missing = [name for name in ("product_id", "quantity") if name not in header]
    if missing:
        raise OperatorError(
            f"{path}: the first line must name the columns product_id and quantity, and may name low_stock_threshold; "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        )
    for line, cells in rows:
        if any(cells):
            yield _row(line, dict(zip(header, (cell.strip() for cell in cells), strict=False)))


def _row(line: int, cells: dict[str, str]) -> ImportRow | str:
    product_id = cells.get("product_id", "")
    if problem := id_problem(product_id):
        return f"line {line}: product_id {problem}"
    quantity = _number(cells.get("quantity", ""))
    if quantity is None:
        return f"line {line}: quantity must be a whole number from 0 to {MAX_QUANTITY:,}, got {cells.get('quantity')!r}"
    text = cells.get("low_stock_threshold", "")
    threshold = _number(text) if text else None
    if text and threshold is None:
        return f"line {line}: low_stock_threshold must be a whole number from 0 to {MAX_QUANTITY:,}, got {text!r}"
    return ImportRow(line, product_id, quantity, threshold)


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_QUANTITY))):
        return None
    number = int(text)
    return number if number <= MAX_QUANTITY else None


def _commands(row: ImportRow, plan: ImportPlan) -> tuple[CausedCommand, CausedCommand]:
    """Return a creation and a SET to the same quantity; whether the product exists or not, one of them does nothing."""
    return (
        CreateProduct(new_cause(), row.product_id, row.quantity, row.threshold, plan.operator),
        AdjustStock(
            new_cause(),
            row.product_id,
            Operation.SET,
            row.quantity,
            row.threshold,
            plan.reason,
            plan.operator,
            reference_type=ReferenceType.IMPORT,
        ),
    )


def _count(summary: ImportSummary, rows: Sequence[ImportRow], result: BatchResult) -> None:
    for place, row in enumerate(rows):
        created, adjusted = result.verdicts[2 * place : 2 * place + 2]
        summary.rows += 1
        if created.disposition is TaskDisposition.APPLIED:
            summary.created += 1
        elif adjusted.disposition is TaskDisposition.REFUSED:
            summary.refused += 1
            if len(summary.refusals) < MAX_PROBLEMS:
                summary.refusals.append(f"line {row.line}: {describe_refusal(adjusted, row.product_id)}")
        elif row.product_id in result.products:
            summary.changed += 1
        else:
            summary.unchanged += 1


def _chunks(rows: Iterator[ImportRow], size: int) -> Iterator[list[ImportRow]]:
    chunk: list[ImportRow] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
