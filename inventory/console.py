# ruff: noqa: PLC0415 - rich is imported only where there is a terminal to draw on
"""What commands print: tables and progress bars on a terminal, plain lines on a pipe, JSON for scripts."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

LINE_INTERVAL_SECONDS: Final = 5.0
GAP: Final = "  "
# No column is cut below this: 8 characters of an id and an ellipsis, which is enough for `dlq show`.
NARROWEST: Final = 9


# Called with the step, the number done and the total; cheap enough to call for every record.
ProgressLine = Callable[[str, int, int], None]


def print_line(text: str = "") -> None:
    """Print one line of a command's result."""
    sys.stdout.write(f"{text}\n")


def print_json(value: object) -> None:
    """Print a result for a script."""
    print_line(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_warning(text: str) -> None:
    """Print a warning to standard error, apart from the result."""
    sys.stderr.write(f"warning: {text}\n")


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in aligned columns, numbers to the right.

    On a terminal the widest columns are cut until a row fits the line; on a pipe nothing is cut or wrapped.
    """
    texts = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(header, *texts, strict=True)]
    if sys.stdout.isatty():
        widths = _fitted(widths, shutil.get_terminal_size().columns)
    right = [bool(rows) and all(isinstance(row[place], int | float) for row in rows) for place in range(len(header))]
    for line in ([name.upper() for name in header], *texts):
        cells = [
            text.rjust(width) if to_right else _cut(text, width).ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        print_line(GAP.join(cells).rstrip())


def _fitted(widths: Sequence[int], columns: int) -> list[int]:
    """Return widths that fit a line: the widest shrink first, none below NARROWEST."""
    fitted = list(widths)
    while sum(fitted) + len(GAP) * (len(fitted) - 1) > columns and max(fitted) > NARROWEST:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


@contextmanager
def progress() -> Iterator[ProgressLine]:
    """Give a progress display on standard error: bars on a terminal, a line every few seconds elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield show


class _Lines:
    """Progress for a pipe or a log: a line at the start, at the end, and every few seconds in between."""

    def __init__(self) -> None:
        self._what = ""
        self._finished = False
        self._next = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what == self._what and (self._finished or (done < total and now < self._next)):
            return
        self._what = what
        self._finished = done >= total
        self._next = now + LINE_INTERVAL_SECONDS
        sys.stderr.write(f"{what}: {done:,} of {total:,}\n")


def printable(text: str) -> str:
    """Escape control characters: text from outside must not control the operator's terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return printable(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
