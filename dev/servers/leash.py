"""Ends the embedded servers when the process that started them ends, even by SIGKILL.

A server orphaned by a killed test run would hold memory and a port for days. `hold` reports each server to a small
watcher process. The watcher reads a pipe that closes when we exit, then ends the servers that are left.
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
    """End process `pid` with `signal_number` when this process ends."""
    _send_line(f"hold {pid} {signal_number}")


def release(pid: int) -> None:
    """Forget process `pid`: it has ended, and the system may reuse its id."""
    _send_line(f"release {pid}")


def remove_later(directory: Path) -> None:
    """Remove a server's directory when this process ends."""
    _send_line(f"remove {directory}")


def _send_line(line: str) -> None:
    """Send one line to the watcher; the first call starts it."""
    global _watcher  # noqa: PLW0603 - one watcher per process
    with _lock:
        if _watcher is None:
            _watcher = subprocess.Popen(
                # -I and -S: it starts in 10 ms and imports none of our code.
                [sys.executable, "-I", "-S", str(Path(__file__))],
                stdin=subprocess.PIPE,
                text=True,
                cwd="/",
                # Ctrl-C reaches the whole process group; the watcher must survive it.
                start_new_session=True,
            )
            atexit.register(_close, _watcher)
        if _watcher.stdin is None:
            raise RuntimeError("the watcher has no standard input")
        _watcher.stdin.write(line + "\n")
        _watcher.stdin.flush()


def _close(watcher: subprocess.Popen[str]) -> None:
    """On a normal exit close the pipe and wait until the watcher has cleaned up."""
    if watcher.stdin is not None:
        watcher.stdin.close()
    watcher.wait(timeout=3 * _GRACE_SECONDS)


def _watch() -> None:
    """Read what to end and remove until the pipe closes, then do it."""
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
    """Send each process its signal, then SIGKILL to those still there after the grace period."""
    for pid, signal_number in held.items():
        _send(pid, signal_number)
        # A stopped process handles the signal only when it continues.
        _send(pid, signal.SIGCONT)
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline and any(_send(pid, 0) for pid in held):
        time.sleep(0.02)
    for pid in held:
        _send(pid, signal.SIGKILL)


def _send(pid: int, signal_number: int) -> bool:
    """Send a signal; false if there is no such process."""
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    _watch()
