"""A connection left unclosed fails the test that left it, not the one that runs when it is collected."""

import subprocess
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).parents[2]
_TESTS = """
import asyncio
import gc

gc.disable()


async def test_leaks():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.cycle = writer
    server.close()


async def test_innocent():
    gc.collect()
"""


def test_a_leak_is_an_error_of_its_own_test(tmp_path: Path) -> None:
    """The innocent test that collects garbage afterwards passes."""
    (tmp_path / "conftest.py").write_text("from tests.leaks import collect_leaks\n")
    (tmp_path / "test_two.py").write_text(_TESTS)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-rpE", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(_REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    errors = [line.split(" - ")[0] for line in run.stdout.splitlines() if line.startswith(("ERROR ", "FAILED "))]
    assert ["ERROR test_two.py::test_leaks"] == errors, run.stdout
    assert "PASSED test_two.py::test_innocent" in run.stdout
