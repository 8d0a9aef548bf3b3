"""Exports all products as a CSV file that `inventory stock import` reads."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from inventory.console import ProgressLine
from inventory.errors import OperatorError
from storage import stock
from storage.database import Connection
from storage.stock import StockLevel

EXPORT_PAGE: Final = 5_000
EXPORT_COLUMNS: Final = (
    "product_id",
    "quantity",
    "low_stock_threshold",
    "reserved",
    "available",
    "stock_status",
    "version",
)

HEADER: Final = ",".join(EXPORT_COLUMNS) + "\n"

# Lone carriage returns too, which Python's csv module leaves without quotes, and spaces, which spreadsheets trim.
_NEEDS_QUOTES: Final = re.compile(r'[,"\r\n]|^\s|\s$')


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Give a file to write, which appears at `path` complete or not at all; raises OperatorError if it cannot."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        try:
            with unfinished.open("w", encoding="utf-8", newline="") as output:
                yield output
                output.flush()
                os.fsync(output.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror or error}") from error


async def export_stock(connection: Connection, output: TextIO, progress: ProgressLine) -> int:
    """Write all products as of one moment, in pages, and return their number."""
    output.write(HEADER)
    count = 0
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        total, _ = await stock.count_products(connection)
        after = ""
        while page := await stock.read_stock_page(connection, after, EXPORT_PAGE):
            output.writelines(map(csv_row, page))
            count += len(page)
            after = page[-1].product_id
            progress("products", count, total)
    return count


def csv_row(level: StockLevel) -> str:
    """Return a product's row; every legal id is read back as it is."""
    return _line(
        (
            level.product_id,
            level.on_hand,
            level.low_stock_threshold,
            level.reserved,
            level.available,
            level.stock_status,
            level.version,
        )
    )


def _line(cells: Sequence[str | int]) -> str:
    return ",".join(_quoted(str(cell)) for cell in cells) + "\n"


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if _NEEDS_QUOTES.search(cell) else cell
