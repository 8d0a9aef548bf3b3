"""Log lines carry the fields that operators search for, one line each, and no payloads."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from typing_extensions import override

from inventory import logs
from inventory.logs import LogFormat, LogLevel


class _Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    @override
    def isatty(self) -> bool:
        """Claim to be one."""
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    names = (*logs.NOISY_LOGGERS, *logs.SILENCED_LOGGERS)
    before = {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in names}
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    for name, (old_level, old_handlers) in before.items():
        logging.getLogger(name).setLevel(old_level)
        logging.getLogger(name).handlers = old_handlers


def _json_line(stream: io.StringIO) -> dict[str, object]:
    (line,) = stream.getvalue().splitlines()
    parsed: dict[str, object] = json.loads(line)
    return parsed


def test_a_pipe_gets_json_lines_with_the_fields() -> None:
    """Elsewhere than on a terminal each line is an object with the caller's fields."""
    stream = io.StringIO()
    logs.configure(LogLevel.INFO, LogFormat.AUTO, stream)
    logging.getLogger("workers.consuming.consumer").warning(
        "dead letter", extra={"event_id": "e1", "topic": "order.created", "partition": 3, "offset": 77}
    )
    line = _json_line(stream)
    assert line.pop("time")
    assert line == {
        "level": "warning",
        "logger": "workers.consuming.consumer",
        "message": "dead letter",
        "event_id": "e1",
        "topic": "order.created",
        "partition": 3,
        "offset": 77,
    }


def test_a_terminal_gets_lines_to_read() -> None:
    """On a terminal the fields follow the message as name=value."""
    stream = _Terminal()
    logs.configure(LogLevel.INFO, LogFormat.AUTO, stream)
    logging.getLogger("workers").info("applied", extra={"offset": 5, "order_id": "o 1"})
    assert stream.getvalue().rstrip().endswith('info     applied  order_id="o 1"  offset=5')


def test_payloads_are_left_out_above_debug() -> None:
    """A payload under a known name or in a structure is dropped from every line above debug level."""
    stream = io.StringIO()
    logs.configure(LogLevel.INFO, LogFormat.JSON, stream)
    logging.getLogger("workers").error("no", extra={"payload": "tiger", "items": ["tiger"], "raw": b"tiger"})
    assert "tiger" not in stream.getvalue()


def test_payloads_are_shown_at_debug() -> None:
    """Debug level is for looking at payloads."""
    stream = io.StringIO()
    logs.configure(LogLevel.DEBUG, LogFormat.JSON, stream)
    logging.getLogger("workers").debug("yes", extra={"payload": "tiger"})
    assert _json_line(stream)["payload"] == "tiger"


def test_an_id_with_a_line_break_does_not_forge_a_line() -> None:
    """What comes from outside stays within its own line, in both forms."""
    for form in (LogFormat.HUMAN, LogFormat.JSON):
        stream = io.StringIO()
        logs.configure(LogLevel.INFO, form, stream)
        logging.getLogger("workers").info("id %s", "a\nfake", extra={"event_id": "b\nfake"})
        assert len(stream.getvalue().splitlines()) == 1


def test_a_traceback_is_part_of_the_json_line() -> None:
    """An exception is one line as well, so that a collector keeps it together."""
    stream = io.StringIO()
    logs.configure(LogLevel.INFO, LogFormat.JSON, stream)
    try:
        json.loads("{")
    except ValueError:
        logging.getLogger("workers").exception("failed")
    assert "JSONDecodeError" in str(_json_line(stream)["error"])


@pytest.mark.parametrize("name", ["aiokafka.consumer.group_coordinator", "faststream", "uvicorn.error"])
def test_libraries_are_quiet_at_info(name: str) -> None:
    """Connections and rebalances of client libraries are no news; their warnings are."""
    stream = io.StringIO()
    logs.configure(LogLevel.INFO, LogFormat.JSON, stream)
    logging.getLogger(name).info("joined group")
    logging.getLogger(name).warning("lost")
    assert _json_line(stream)["message"] == "lost"
