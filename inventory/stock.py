"""What `inventory stock` does: every change is a command through `engine.execute`, every look a plain read."""

import asyncio
import csv
import os
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO
from uuid import uuid4

from domain.commands import AdjustStock, CausedCommand, CreateProduct
from domain.model import Cause, Operation, Reason, ReferenceType
from engine.execute import execute
from engine.reading import StockReader, close_quietly
from engine.tasks import BatchResult, TaskDisposition, Verdict, command_task
from inventory.console import ProgressLine
from inventory.database import connection, pool, require_migrated
from inventory.errors import OperatorError
from inventory.policy import policy_of
from inventory.publisher import open_rows
from inventory.settings import Settings, variable
from storage import stock
from storage.cache import Cache
from storage.database import Pool
from storage.errors import is_unavailable
from storage.stock import LedgerRow, StockLevel
from workers.cache import CacheRefresher

SOURCE: Final = "inventory-cli"
MAX_ID_LENGTH: Final = 256
MAX_QUANTITY: Final = 1_000_000
IMPORT_ROWS_PER_TRANSACTION: Final = 500
EXPORT_PAGE: Final = 5_000
MAX_PROBLEMS: Final = 20
ATTEMPTS: Final = 4
RETRY_SECONDS: Final = 0.5

EXPORT_COLUMNS: Final = (
    "product_id",
    "quantity",
    "low_stock_threshold",
    "reserved",
    "available",
    "stock_status",
    "version",
)


# --- look ---------------------------------------------------------------------------------------


class Shown(NamedTuple):
    """What was asked for: the levels, how many there are in all, and the products that do not exist."""

    levels: list[StockLevel]
    total: int
    unknown: list[str]


async def show(settings: Settings, product_ids: Sequence[str], limit: int, *, low: bool) -> Shown:
    """Read products from PostgreSQL: those named, or all, or those that are low."""
    async with connection(settings) as opened:
        if product_ids:
            return _named(product_ids, await stock.read_stock(opened, product_ids), low=low)
        products, not_ok = await stock.count_products(opened)
        if low:
            return Shown(await stock.read_low_stock(opened, limit), not_ok, [])
        return Shown(await stock.read_stock_page(opened, "", limit), products, [])


async def show_cached(settings: Settings, product_ids: Sequence[str], limit: int) -> Shown:
    """Read products through the cache: those named, or else those that are low."""
    if settings.redis_url is None:
        raise OperatorError(f"there is no cache: {variable('redis_url')} is not set")
    async with pool(settings, SOURCE) as opened, _cache(settings) as cache:
        reader = StockReader(opened, cache, _now)
        if product_ids:
            return _named(product_ids, await reader.stock(product_ids), low=False)
        levels = await reader.low_stock()
        return Shown(levels[:limit], len(levels), [])


def _named(product_ids: Sequence[str], found: dict[str, StockLevel], *, low: bool) -> Shown:
    wanted = list(dict.fromkeys(product_ids))
    levels = [found[product_id] for product_id in wanted if product_id in found]
    if low:
        levels = [level for level in levels if level.stock_status != "ok"]
    return Shown(levels, len(levels), [product_id for product_id in wanted if product_id not in found])


async def history(settings: Settings, product_id: str, limit: int) -> tuple[list[LedgerRow], StockLevel | None]:
    """Read the product's newest ledger entries, and its stock; None for one that does not exist."""
    async with connection(settings) as opened:
        levels = await stock.read_stock(opened, [product_id])
        return await stock.read_history(opened, product_id, limit), levels.get(product_id)


# --- change -------------------------------------------------------------------------------------


def new_cause() -> Cause:
    """Return the cause of a change by hand: it has an identity, so that trying it again cannot apply it twice."""
    return Cause(SOURCE, str(uuid4()), _now())


class Changed(NamedTuple):
    """What became of a change, and the product's stock after it; None for one that does not exist."""

    verdict: Verdict
    level: StockLevel | None

    @property
    def refused(self) -> bool:
        """Whether nothing was changed because the rules do not allow it."""
        return self.verdict.disposition is TaskDisposition.REFUSED


async def change(settings: Settings, command: AdjustStock) -> Changed:
    """Adjust one product; a refusal is a verdict, not an error."""
    async with pool(settings, SOURCE) as opened:
        async with opened.acquire() as first:
            await require_migrated(first)
        result = await _apply(settings, opened, [command])
        async with opened.acquire() as reading:
            levels = await stock.read_stock(reading, [command.product_id])
    await _tell_cache(settings, result)
    return Changed(result.verdicts[0], levels.get(command.product_id))


def refusal_in_words(verdict: Verdict, product_id: str) -> str:
    """Return why a change was refused, as a person would say it."""
    match verdict.reason:
        case Reason.UNKNOWN_PRODUCT:
            return f"there is no product {product_id}: `inventory stock import` or a product.created event makes one"
        case Reason.STALE_VERSION:
            return f"{product_id} was changed since: {verdict.message}; look again and decide anew"
        case Reason.BELOW_RESERVED:
            return f"the stock of {product_id} cannot go that low: {verdict.message}"
        case reason:
            return f"{product_id}: {verdict.message or reason}"


async def _apply(settings: Settings, opened: Pool, commands: Sequence[CausedCommand]) -> BatchResult:
    """Apply commands in one transaction; a connection cut in the commit is tried again under the same identity."""
    tasks = [command_task(command) for command in commands]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await execute(opened, tasks, policy_of(settings), _now())
        except Exception as error:
            if attempt == ATTEMPTS or not is_unavailable(error):
                raise
            await asyncio.sleep(RETRY_SECONDS)
    raise AssertionError("unreachable")


async def _tell_cache(settings: Settings, result: BatchResult) -> None:
    """Let those who look see the change at once; without Redis they see it when their value's time is up."""
    if settings.redis_url is not None and result.products:
        async with _cache(settings) as cache:
            refresher = CacheRefresher(cache, _now)
            refresher.after_commit(result)
            await refresher.run_once()


# --- import -------------------------------------------------------------------------------------


class ImportRow(NamedTuple):
    """A line of the file: the product's stock on hand, and its threshold where the file says one."""

    line: int
    product_id: str
    quantity: int
    threshold: int | None


@dataclass(slots=True)
class ImportSummary:
    """What became of a file's rows; `refusals` are the first few in words."""

    rows: int = 0
    created: int = 0
    changed: int = 0
    unchanged: int = 0
    refused: int = 0
    refusals: list[str] = field(default_factory=list)


class ImportOptions(NamedTuple):
    """What the ledger will say about the import."""

    reason: str
    operator: str


async def import_stock(settings: Settings, path: Path, options: ImportOptions, progress: ProgressLine) -> ImportSummary:
    """Make every product of the file known and set its stock on hand; the same file again changes nothing.

    The file is checked whole before anything is written, then applied in bounded transactions.

    Raises OperatorError where the file is not as it should be.
    """
    total = _check_file(path)
    summary = ImportSummary()
    async with pool(settings, SOURCE) as opened:
        async with opened.acquire() as first:
            await require_migrated(first)
        for rows in _chunks(read_rows(path), IMPORT_ROWS_PER_TRANSACTION):
            progress("products", summary.rows, total)
            try:
                result = await _apply(
                    settings, opened, [command for row in rows for command in _commands(row, options)]
                )
            except Exception as error:
                if not is_unavailable(error):
                    raise
                raise OperatorError(
                    f"PostgreSQL was lost after {summary.rows:,} of {total:,} rows ({error}); run the import again, "
                    "what is done already will not change"
                ) from error
            _count(summary, rows, result)
            await _tell_cache(settings, result)
    progress("products", summary.rows, total)
    return summary


def read_rows(path: Path) -> Iterator[ImportRow]:
    """Give the file's rows one at a time; raises OperatorError with the line for the first that is wrong."""
    for row in _parsed(path):
        if isinstance(row, str):
            raise OperatorError(f"{path}: {row}")
        yield row


def _check_file(path: Path) -> int:
    """Return how many rows the file has; raises OperatorError naming every problem, at most 20."""
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
    return len(lines)


def _parsed(path: Path) -> Iterator[ImportRow | str]:
    """Give each row of the file, or what is wrong with it."""
    rows = open_rows(path)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    missing = [name for name in ("product_id", "quantity") if name not in header]
    if missing:
        raise OperatorError(
            f"{path}: the first line must name the columns product_id and quantity (low_stock_threshold if you like); "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        )
    for line, cells in rows:
        if any(cells):
            yield _row(line, dict(zip(header, (cell.strip() for cell in cells), strict=False)))


def _row(line: int, cells: dict[str, str]) -> ImportRow | str:
    product_id = cells.get("product_id", "")
    if trouble := id_trouble(product_id):
        return f"line {line}: product_id {trouble}"
    quantity = _number(cells.get("quantity", ""))
    if quantity is None:
        return f"line {line}: quantity must be a whole number from 0 to {MAX_QUANTITY:,}, got {cells.get('quantity')!r}"
    text = cells.get("low_stock_threshold", "")
    threshold = _number(text) if text else None
    if text and threshold is None:
        return f"line {line}: low_stock_threshold must be a whole number from 0 to {MAX_QUANTITY:,}, got {text!r}"
    return ImportRow(line, product_id, quantity, threshold)


def id_trouble(product_id: str) -> str | None:
    """Say what keeps a text from being an id; None for one that can be."""
    if not product_id:
        return "is empty"
    if len(product_id) > MAX_ID_LENGTH:
        return f"is longer than {MAX_ID_LENGTH} characters"
    if "\x00" in product_id:
        return "contains a NUL character"
    try:
        product_id.encode()
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    return None


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_QUANTITY))):
        return None
    number = int(text)
    return number if number <= MAX_QUANTITY else None


def _commands(row: ImportRow, options: ImportOptions) -> tuple[CausedCommand, CausedCommand]:
    """Return what makes the product known, or else sets its stock: of the two one changes nothing."""
    return (
        CreateProduct(new_cause(), row.product_id, row.quantity, row.threshold, options.operator),
        AdjustStock(
            new_cause(),
            row.product_id,
            Operation.SET,
            row.quantity,
            row.threshold,
            options.reason,
            options.operator,
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
                summary.refusals.append(f"line {row.line}: {refusal_in_words(adjusted, row.product_id)}")
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


# --- export -------------------------------------------------------------------------------------


async def export_to_file(settings: Settings, path: Path, progress: ProgressLine) -> int:
    """Write all products to a CSV file that `import_stock` reads; the file appears whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        try:
            with unfinished.open("w", encoding="utf-8", newline="") as output:
                count = await export(settings, output, progress)
                output.flush()
                os.fsync(output.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror or error}") from error
    return count


async def export(settings: Settings, output: TextIO, progress: ProgressLine) -> int:
    """Write all products as CSV, of one moment, in pages; returns how many."""
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(EXPORT_COLUMNS)
    count = 0
    async with connection(settings) as opened, opened.transaction(isolation="repeatable_read", readonly=True):
        total, _ = await stock.count_products(opened)
        after = ""
        while page := await stock.read_stock_page(opened, after, EXPORT_PAGE):
            writer.writerows(_export_row(level) for level in page)
            count += len(page)
            after = page[-1].product_id
            progress("products", count, total)
    return count


def _export_row(level: StockLevel) -> Collection[Any]:
    return (
        level.product_id,
        level.on_hand,
        level.low_stock_threshold,
        level.reserved,
        level.available,
        level.stock_status,
        level.version,
    )


@asynccontextmanager
async def _cache(settings: Settings) -> AsyncIterator[Cache]:
    if settings.redis_url is None:
        raise AssertionError("there is no cache without an address")
    cache = Cache(settings.redis_url)
    try:
        yield cache
    finally:
        await close_quietly(cache)


def _now() -> datetime:
    return datetime.now(UTC)
