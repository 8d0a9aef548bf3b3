"""Reads the rows of a CSV file, plain or gzip."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from inventory.errors import OperatorError

GZIP_MAGIC: Final = b"\x1f\x8b"


def open_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with its line number, one at a time; raises OperatorError for a file that cannot be read."""
    number = 0
    try:
        with path.open("rb") as raw:
            compressed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            raw.seek(0)
            content = gzip.GzipFile(fileobj=raw) if compressed else raw
            # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name.
            with io.TextIOWrapper(content, "utf-8-sig", newline="") as text:
                reader = csv.reader(text, strict=True)
                for row in reader:
                    number = reader.line_num
                    yield number, row
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise OperatorError(f"{path} is no CSV file in UTF-8 after line {number}: {error}") from error
