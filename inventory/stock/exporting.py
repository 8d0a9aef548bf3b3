"""Exports all products as a CSV file that `inventory stock import` reads."""

import csv
import os
from collections.abc import Iterator
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
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(EXPORT_COLUMNS)
    count = 0
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        total, _ = await stock.count_products(connection)
        after = ""
        while page := await stock.read_stock_page(connection, after, EXPORT_PAGE):
            writer.writerows(_cells(level) for level in page)
            count += len(page)
            after = page[-1].product_id
            progress("products", count, total)
    return count


def _cells(level: StockLevel) -> tuple[str | int, ...]:
    return (
        level.product_id,
        level.on_hand,
        level.low_stock_threshold,
        level.reserved,
        level.available,
        level.stock_status,
        level.version,
    )
