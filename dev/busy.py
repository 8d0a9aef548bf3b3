"""`python -m dev.busy [--processes N] [--times N] -- COMMAND ...`: run a command while every core is kept busy.

Tests that pass only on an idle machine fail here. The busy processes end with the command, with this process however
it ends, and by themselves after `--limit` seconds.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_CHECK_SECONDS = 0.5

# Arguments: the process that it belongs to, and the seconds that it lasts at most.
_SPIN = f"""
import os, sys, time
parent, end = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
while os.getppid() == parent and time.monotonic() < end:
    pause = time.monotonic() + {_CHECK_SECONDS}
    while time.monotonic() < pause:
        pass
"""


@contextmanager
def busy(processes: int, limit_seconds: float) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Keep `processes` cores busy inside the block, for at most `limit_seconds`."""
    command = [sys.executable, "-I", "-S", "-c", _SPIN, str(os.getpid()), str(limit_seconds)]
    started: list[subprocess.Popen[bytes]] = []
    try:
        started += [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(processes)]
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command so many times, until it fails; returns its last exit code."""
    parser = argparse.ArgumentParser(prog="python -m dev.busy", description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per core")
    parser.add_argument("--times", type=int, default=1, help="how often the command runs")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds after which the busy processes end")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    code = 0
    with busy(options.processes, options.limit):
        for number in range(1, options.times + 1):
            started = time.monotonic()
            code = subprocess.run(options.command, check=False).returncode
            seconds = time.monotonic() - started
            sys.stdout.write(f"run {number} of {options.times}: exit code {code} after {seconds:.0f} s\n")
            sys.stdout.flush()
            if code != 0:
                break
    return code


if __name__ == "__main__":
    sys.exit(main())
