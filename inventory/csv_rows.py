"""Reads the rows of a CSV file, plain or gzip, and checks that header and rows agree."""

import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from inventory.errors import OperatorError

GZIP_MAGIC: Final = b"\x1f\x8b"
DIGEST_CHUNK: Final = 1 << 20


def open_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with its line number, one at a time; raises OperatorError for a file that cannot be read."""
    number = 0
    try:
        with (
            _content(path) as content,
            # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name.
            io.TextIOWrapper(content, "utf-8-sig", newline="") as text,
        ):
            reader = csv.reader(text, strict=True)
            for row in reader:
                number = reader.line_num
                yield number, row
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise OperatorError(f"{path} is no CSV file in UTF-8 after line {number}: {error}") from error


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, the same whether or not it is compressed; raises like `open_rows`."""
    digest = hashlib.sha256()
    try:
        with _content(path) as content:
            while chunk := content.read(DIGEST_CHUNK):
                digest.update(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise OperatorError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return digest.hexdigest()


def column_names(header: Sequence[str]) -> list[str]:
    """Return the names of the columns, without the empty cells that spreadsheets append to every row."""
    names = [name.strip() for name in header]
    while names and not names[-1]:
        names.pop()
    return names


def header_problem(names: Sequence[str]) -> str | None:
    """Return why these columns are ambiguous, or None: with a name twice, one of its values would be ignored."""
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    return f"the header names {', '.join(repeated)} more than once" if repeated else None


def row_problem(names: Sequence[str], cells: Sequence[str]) -> str | None:
    """Return why a row does not fit the header, or None; empty cells after the last column are no problem.

    A row of another length has shifted values: `A,1,250` under `product_id,quantity` means 1,250, not 1.
    """
    if len(cells) >= len(names) and not any(cells[len(names) :]):
        return None
    return (
        f"{len(cells)} columns, but the header has {len(names)}: "
        "a value with a comma must be in quotes, a number has no separators"
    )


@contextmanager
def _content(path: Path) -> Iterator[BinaryIO]:
    """Give a file's bytes, decompressed where they are gzip."""
    with path.open("rb") as raw:
        compressed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        yield cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if compressed else raw
