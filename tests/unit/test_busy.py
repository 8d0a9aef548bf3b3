"""`make test-busy` keeps the cores busy for as long as the tests run, and no longer."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from dev.busy import busy, main

REPOSITORY = Path(__file__).parents[2]
WAIT_SECONDS = 30.0


def _until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline, f"still there: {pids}"
        time.sleep(0.05)


def test_busy_processes_use_the_processor_and_end_with_the_block() -> None:
    """Inside the block each takes processor time; after it none is left."""
    with busy(2, WAIT_SECONDS) as processes:
        running = [psutil.Process(process.pid) for process in processes]
        deadline = time.monotonic() + WAIT_SECONDS
        while any(process.cpu_times().user < 0.2 for process in running):
            assert time.monotonic() < deadline, "the processes are idle"
            time.sleep(0.05)
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2


def test_busy_processes_end_by_themselves_at_their_limit() -> None:
    """A limit that has passed ends them inside the block as well."""
    with busy(1, 0.0) as (process,):
        assert process.wait(WAIT_SECONDS) == 0


def test_busy_processes_end_when_their_parent_is_killed() -> None:
    """SIGKILL runs no clean-up; the processes see that their parent is gone."""
    source = "from dev.busy import busy\nwith busy(1, 600) as (one,):\n    print(one.pid, flush=True)\n    one.wait()"
    with subprocess.Popen(
        [sys.executable, "-c", source], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env={**os.environ}
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    _until_gone([pid])


def test_a_command_runs_as_often_as_asked_until_it_fails(tmp_path: Path) -> None:
    """The exit code is the command's own, and a failure stops the repetition."""
    log = tmp_path / "log"
    count = f"import sys; f = open({str(log)!r}, 'a+'); f.write('x'); f.seek(0); sys.exit(len(f.read()) == 2)"
    assert main(["--processes", "0", "--times", "5", "--", sys.executable, "-c", count]) == 1
    assert log.read_text() == "xx"
