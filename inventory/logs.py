"""Logs: one line per event, readable on a terminal and JSON elsewhere.

Each value in logging's `extra` becomes a field: event_id, order_id, topic, partition, offset and other plain values.
Above debug level, values that are not plain and the names in PAYLOAD_FIELDS are dropped, so that customers' data does
not reach a log collector by accident.

    logger.warning("dead letter", extra={"topic": "order.created", "partition": 3, "offset": 77, "reason": "conflict"})
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TextIO

from typing_extensions import override

from inventory.console import printable

LEADING_FIELDS: Final[tuple[str, ...]] = ("event_id", "order_id", "topic", "partition", "offset")
PAYLOAD_FIELDS: Final = frozenset({"payload", "value", "body", "data", "headers", "record"})
LONGEST_FIELD = 500

# They log every connection, rebalance and request, which our own lines and metrics report once.
NOISY_LOGGERS: Final = ("aiokafka", "faststream", "uvicorn", "uvicorn.error", "asyncio", "alembic")
# They log a line per request or probe at every level.
SILENCED_LOGGERS: Final = ("faststream.access.kafka", "uvicorn.access")

_STANDARD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS: Final = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[1;31m"}
_RESET: Final = "\x1b[0m"


class LogLevel(StrEnum):
    """Least severe level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """Form of a log line; AUTO is human on a terminal and JSON elsewhere."""

    AUTO = "auto"
    HUMAN = "human"
    JSON = "json"


def configure(level: LogLevel, format_: LogFormat, stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (standard error) in one form.

    Call it after importing FastStream, which adds a handler to its logger on import. Give its broker and application
    `logger=None`, and uvicorn `log_config=None`, so that they do not add theirs again.
    """
    stream = stream or sys.stderr
    human = stream.isatty() if format_ is LogFormat.AUTO else format_ is LogFormat.HUMAN
    handler = logging.StreamHandler(stream)
    colour = human and stream.isatty() and "NO_COLOR" not in os.environ
    handler.setFormatter(HumanFormatter(colour=colour) if human else JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    wanted = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(wanted)
    noise_level = logging.INFO if wanted <= logging.DEBUG else max(wanted, logging.WARNING)
    for name in NOISY_LOGGERS:
        _adopt(name, noise_level)
    for name in SILENCED_LOGGERS:
        _adopt(name, logging.CRITICAL)
    logging.captureWarnings(capture=True)


def silence_clients() -> None:
    """Silence client libraries in a short command, which reports an error in one line."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in NOISY_LOGGERS:
        _adopt(name, logging.CRITICAL + 1)


@contextmanager
def clients_silenced() -> Iterator[None]:
    """Silence client libraries inside the block, whose failure becomes one line of ours."""
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, fields, and the traceback as `error`."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class HumanFormatter(logging.Formatter):
    """One readable line: time, level, message, fields as name=value; a traceback below it."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    @override
    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower():<8}"
        if self._colour and record.levelno in _COLOURS:
            level = f"{_COLOURS[record.levelno]}{level}{_RESET}"
        clock = f"{_time(record).astimezone():%H:%M:%S.%f}"[:-3]
        pairs = "".join(f"  {name}={_readable(value)}" for name, value in fields(record).items())
        line = f"{clock} {level} {_one_line(record.getMessage())}{pairs}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def fields(record: logging.LogRecord) -> dict[str, str | int | float | bool]:
    """Return the values of `extra`, LEADING_FIELDS first; payloads only at debug level."""
    attached = {
        name: value
        for name, value in vars(record).items()
        if name not in _STANDARD_ATTRIBUTES and not name.startswith("_")
    }
    names = [name for name in LEADING_FIELDS if name in attached]
    names += sorted(attached.keys() - set(names))
    shown: dict[str, str | int | float | bool] = {}
    for name in names:
        value = attached[name]
        if record.levelno > logging.DEBUG and (name in PAYLOAD_FIELDS or not isinstance(value, str | int | float)):
            continue
        shown[name] = value if isinstance(value, int | float) else _shortened(str(value))
    return shown


def _adopt(name: str, level: int) -> None:
    """Send a library's log lines to our handler, from this level."""
    logger = logging.getLogger(name)
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(level)


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_FIELD else f"{text[:LONGEST_FIELD]}... ({len(text)} characters)"


def _readable(value: str | float) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)


def _one_line(message: str) -> str:
    """Escape line breaks and control characters: an id from outside must not forge a second log line."""
    return printable(message)
