"""The CSV file of an import: its rows, checked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from inventory.csv_rows import column_names, content_digest, header_problem, open_rows, row_problem
from inventory.errors import OperatorError
from inventory.identifiers import id_problem
from schemas.limits import MAX_ON_HAND, MAX_QUANTITY, MAX_VERSION

MAX_PROBLEMS: Final = 20

# Columns of numbers with the least and the most allowed; all but quantity may be empty.
_NUMBERS: Final = (
    ("quantity", 0, MAX_ON_HAND),
    ("low_stock_threshold", 0, MAX_QUANTITY),
    ("expected_version", 1, MAX_VERSION),
)


class ImportRow(NamedTuple):
    """A row of the file: the product's stock on hand, its threshold, and the version that it must have.

    Threshold and version are None where the file names none.
    """

    line: int
    product_id: str
    quantity: int
    threshold: int | None
    expected_version: int | None


class CheckedFile(NamedTuple):
    """A file whose rows can be imported; `digest` is that of its content."""

    path: Path
    rows: int
    digest: str


def check_file(path: Path) -> CheckedFile:
    """Check the whole file; raises OperatorError naming its problems, at most 20."""
    digest = content_digest(path)
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
    return CheckedFile(path, len(lines), digest)


def rows_of(file: CheckedFile) -> Iterator[ImportRow]:
    """Yield the rows again; raises OperatorError as soon as they are not those that were checked."""
    changed = OperatorError(f"{file.path} changed while it was being imported: rows that were applied stay as they are")
    for number, row in enumerate(_parsed(file.path), start=1):
        if isinstance(row, str) or number > file.rows:
            raise changed
        yield row
    if content_digest(file.path) != file.digest:
        raise changed


def _parsed(path: Path) -> Iterator[ImportRow | str]:
    """Yield each row of the file, or what is wrong with it."""
    rows = open_rows(path)
    names = column_names(next(rows, (0, []))[1])
    if problem := header_problem(names):
        raise OperatorError(f"{path}: {problem}")
    missing = [name for name in ("product_id", "quantity") if name not in names]
    if missing:
        raise OperatorError(
            f"{path}: the first line must name the columns product_id and quantity, and may name low_stock_threshold "
            f"and expected_version; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        )
    for line, cells in rows:
        if not any(cells):
            continue
        if problem := row_problem(names, cells):
            yield f"line {line}: {problem}"
        else:
            yield _row(line, dict(zip(names, cells, strict=False)))


def _row(line: int, cells: dict[str, str]) -> ImportRow | str:
    # Not stripped: " X " and "X" are two products.
    product_id = cells["product_id"]
    if problem := id_problem(product_id):
        return f"line {line}: product_id {problem}"
    numbers: list[int | None] = []
    for name, least, most in _NUMBERS:
        text = cells.get(name, "").strip()
        number = _number(text, least, most)
        if number is None and (text or name == "quantity"):
            return f"line {line}: {name} must be a whole number from {least} to {most:,}, got {text!r}"
        numbers.append(number)
    quantity, threshold, expected_version = numbers
    return ImportRow(line, product_id, quantity or 0, threshold, expected_version)


def _number(text: str, least: int, most: int) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most))):
        return None
    number = int(text)
    return number if least <= number <= most else None
