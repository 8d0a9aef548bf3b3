"""`inventory demo` as a user runs it: ends with `audit: ok`, reports what is wrong, and leaves nothing behind."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

BOUND_SECONDS = 120.0
LEFT_BEHIND_SECONDS = 20.0
REPOSITORY = Path(__file__).parents[2]
ENTER_SCREEN, LEAVE_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"


@dataclass
class Demo:
    """A running demo; every process that it starts inherits its mark."""

    process: subprocess.Popen[bytes]
    mark: str
    output: Path

    def text(self) -> str:
        """Return the output so far."""
        return self.output.read_text(errors="replace")

    def finish(self) -> int:
        """Wait for its end and return the exit code."""
        return self.process.wait(BOUND_SECONDS)

    def family(self) -> list[psutil.Process]:
        """Return all processes with the mark, including detached ones."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get("DEMO_MARK") == self.mark
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def program(self, command: str) -> psutil.Process:
        """Return the process of a command of the program."""
        return next(process for process in self.family() if process.cmdline()[1:] == ["-m", "inventory", command])


Start = Callable[..., Demo]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start demos on a pipe, or on a given terminal."""
    demos: list[Demo] = []

    def started(*arguments: str, terminal: int | None = None) -> Demo:
        mark, output = uuid.uuid4().hex, tmp_path / "output"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("INVENTORY_", "PYTEST_"))}
        if terminal is not None:
            clean = {name: value for name, value in clean.items() if name not in {"CI", "NO_COLOR", "COLUMNS", "LINES"}}
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "inventory", "demo", *arguments],
                env={**clean, "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY), "DEMO_MARK": mark},
                cwd="/",
                stdin=terminal,
                stdout=file if terminal is None else terminal,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        demos.append(Demo(process, mark, output))
        return demos[-1]

    # A background shell starts us with SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield started
    signal.signal(signal.SIGINT, before)
    for demo in demos:
        demo.process.kill()
        demo.process.wait()
        for process in demo.family():
            process.kill()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal of 80 columns: our end, which does not block, and the end for the demo."""
    ours, theirs = pty.openpty()
    try:
        termios.tcsetwinsize(theirs, (24, 80))
        os.set_blocking(ours, False)
        yield ours, theirs
    finally:
        os.close(theirs)
        os.close(ours)


def _until(condition: Callable[[], object], what: str, seconds: float = BOUND_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def _count(text: str, row: str, name: str) -> int:
    """Return a count from a row of the summary, which may be wrapped."""
    lines = re.search(rf"^{row} .*(?:\n .*)*", text, re.MULTILINE)
    assert lines is not None, text
    found = re.search(rf"{name}:? ([\d,]+)" if name else r"([\d,]+):", lines[0])
    return 0 if found is None else int(found[1].replace(",", ""))


def test_the_demo_accounts_for_every_event(start: Start) -> None:
    """On a pipe it prints plain lines, accounts for every event, and ends with `audit: ok` and exit code 0."""
    demo = start("--seconds", "5")
    code, text = demo.finish(), demo.text()
    assert (code, text.splitlines()[-1]) == (0, "audit: ok"), text
    assert "\x1b" not in text
    assert len(re.findall(r"^ *\d+\.\d s +[\d,]+ events ", text, re.MULTILINE)) >= 4
    verdicts = ("applied", "duplicate", "refused", "parked", "dead-lettered")
    published = _count(text, "published", "")
    assert published > 300
    assert published == sum(_count(text, "handled", verdict) for verdict in verdicts)
    assert _count(text, "handled", "dead-lettered") == _count(text, "published", "poison") > 0
    assert _count(text, "handled", "duplicate") == _count(text, "published", "sent again") > 0
    carts = _count(text, "carts by HTTP", "")
    assert carts == _count(text, "carts by HTTP", "held") + _count(text, "carts by HTTP", "held in part") > 30
    _until(lambda: not demo.family(), "every process of the demo is gone", LEFT_BEHIND_SECONDS)


def test_a_failed_audit_ends_the_demo_with_the_violation(start: Start) -> None:
    """A unit on hand without a ledger entry: the demo prints the violation and exits with 1."""
    demo = start("--seconds", "3", "--rate", "50")
    _until(lambda: " events " in demo.text(), "the shop is open")
    url = demo.program("run").environ()["INVENTORY_DATABASE_URL"]

    async def falsify() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id = 'strainer'")
        finally:
            await connection.close()

    asyncio.run(falsify())
    code, text = demo.finish(), demo.text()
    assert (code, "audit: ok" in text) == (1, False), text
    assert re.search(r"^ledger-(chain|stock): product strainer", text, re.MULTILINE), text


def test_a_worker_that_dies_ends_the_demo(start: Start) -> None:
    """The demo reports the end of its worker, exits with 1, and leaves no process behind."""
    demo = start("--seconds", "30")
    _until(lambda: " events " in demo.text(), "the shop is open")
    demo.program("run").kill()
    code, text = demo.finish(), demo.text()
    assert (code, "demo: the worker ended with status -9" in text) == (1, True), text
    _until(lambda: not demo.family(), "every process of the demo is gone", LEFT_BEHIND_SECONDS)


def test_ctrl_c_gives_the_terminal_back(start: Start, terminal: tuple[int, int]) -> None:
    """On a terminal it draws a live screen; Ctrl-C restores the terminal and leaves no process behind."""
    ours, theirs = terminal
    demo = start("--seconds", "60", terminal=theirs)
    seen = bytearray()

    def shows(what: bytes) -> bool:
        try:
            seen.extend(os.read(ours, 65_536))
        except (BlockingIOError, OSError):
            return what in seen and demo.process.poll() is not None
        return what in seen

    _until(lambda: shows(b"DEAD LETTERS"), "the screen is drawn")
    assert ENTER_SCREEN in seen
    os.killpg(demo.process.pid, signal.SIGINT)
    _until(lambda: shows(b"demo: interrupted"), "the demo has been interrupted")
    assert demo.finish() == 130
    assert seen.rindex(LEAVE_SCREEN) > seen.rindex(ENTER_SCREEN)
    assert seen.rindex(SHOW_CURSOR) > seen.rindex(HIDE_CURSOR)
    _until(lambda: not demo.family(), "every process of the demo is gone", LEFT_BEHIND_SECONDS)


def _paste(demo: Demo, exports: Mapping[str, str]) -> list[Any]:
    """Run each of the printed lines in a shell with the exports; returns the JSON that each prints."""
    lines = re.findall(r"^  (curl .*)$", demo.text(), re.MULTILINE)
    environment = {**os.environ, **exports}
    return [
        json.loads(
            subprocess.run(
                ["bash", "-c", line],  # noqa: S607 - the user's own shell
                env=environment,
                capture_output=True,
                check=True,
                timeout=BOUND_SECONDS,
            ).stdout
        )
        for line in lines
    ]


def test_kept_servers_can_be_used(start: Start) -> None:
    """With --keep its exports and its three lines work in a shell, and Ctrl-C shuts everything down cleanly."""
    demo = start("--seconds", "1", "--keep")
    _until(lambda: "API's log" in demo.text() or demo.process.poll() is not None, "the addresses are printed")
    exports = dict(re.findall(r"^  export (\w+)=(\S+)$", demo.text(), re.MULTILINE))
    worker = demo.program("run").environ()
    settings = {name: value for name, value in exports.items() if name.startswith("INVENTORY_")}
    assert settings == {name: worker[name] for name in settings}
    assert (len(settings), exports.keys() - settings.keys()) == (4, {"API", "TOKEN"})
    product, cart, ledger = _paste(demo, exports)
    assert product["product_id"] == "mug-blue"
    assert (cart["cart_id"], cart["items"]) == ("user:ann", [{"product_id": "mug-blue", "quantity": 1}])
    newest = ledger["transactions"][0]
    assert (newest["type"], newest["reference_id"], len(ledger["transactions"])) == ("RESERVE", "user:ann", 3)
    demo.process.send_signal(signal.SIGINT)
    code, text = demo.finish(), demo.text()
    assert (code, text.splitlines()[-1]) == (0, "audit: ok"), text
    _until(lambda: not demo.family(), "every process of the demo is gone", LEFT_BEHIND_SECONDS)
