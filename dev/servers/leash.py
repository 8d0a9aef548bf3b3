"""Ends the embedded servers when the process that started them is gone, however it went.

A server left behind by a killed test run holds memory and a port for days. `hold` tells one small watcher process
about each server; the watcher reads a pipe that closes when we exit, even by SIGKILL, and then ends what is left.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_GRACE_SECONDS = 5.0

_lock = threading.Lock()
_watcher: subprocess.Popen[str] | None = None


def hold(pid: int, signal_number: int) -> None:
    """End process `pid` with `signal_number` when this process is gone."""
    _tell(f"hold {pid} {signal_number}")


def release(pid: int) -> None:
    """Process `pid` has ended; the number may soon belong to a stranger."""
    _tell(f"release {pid}")


def remove_later(directory: Path) -> None:
    """Remove a server's directory when this process is gone."""
    _tell(f"remove {directory}")


def _tell(line: str) -> None:
    """Send one line to the watcher, which is started by the first."""
    global _watcher  # noqa: PLW0603 - one watcher for the whole process is the point
    with _lock:
        if _watcher is None:
            _watcher = subprocess.Popen(
                # -I and -S: it starts in 10 ms and imports nothing of ours.
                [sys.executable, "-I", "-S", str(Path(__file__))],
                stdin=subprocess.PIPE,
                text=True,
                cwd="/",
                # Ctrl-C on the terminal goes to the whole group; the watcher has to outlive it.
                start_new_session=True,
            )
            atexit.register(_let_go, _watcher)
        if _watcher.stdin is None:
            raise RuntimeError("the watcher has no standard input")
        _watcher.stdin.write(line + "\n")
        _watcher.stdin.flush()


def _let_go(watcher: subprocess.Popen[str]) -> None:
    """Close the pipe on a normal exit and wait until the watcher has cleaned up."""
    if watcher.stdin is not None:
        watcher.stdin.close()
    watcher.wait(timeout=3 * _GRACE_SECONDS)


def _watch() -> None:
    """Read what to end until the pipe closes, then end it."""
    held: dict[int, int] = {}
    directories: list[Path] = []
    for line in sys.stdin:
        verb, _, rest = line.rstrip("\n").partition(" ")
        if verb == "hold":
            pid, signal_number = rest.split()
            held[int(pid)] = int(signal_number)
        elif verb == "release":
            held.pop(int(rest), None)
        elif verb == "remove":
            directories.append(Path(rest))
    _end(held)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _end(held: dict[int, int]) -> None:
    """Ask each process to end, then insist."""
    for pid, signal_number in held.items():
        _send(pid, signal_number)
        # A stopped process takes the signal only when it runs again.
        _send(pid, signal.SIGCONT)
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline and any(_send(pid, 0) for pid in held):
        time.sleep(0.02)
    for pid in held:
        _send(pid, signal.SIGKILL)


def _send(pid: int, signal_number: int) -> bool:
    """Send a signal and tell whether the process was there."""
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    _watch()
