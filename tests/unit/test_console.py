"""Tables: whole on a pipe, fitted to the line on a terminal."""

import os
import sys

import pytest

from inventory.console import print_table

HEADER = ("id", "count", "message")
ROWS = [("0b6c5f0e-6d0c-5b2e-9a55-0d8f3f6f2a11", 12, "the body is not JSON: unexpected character at line 1")]


def test_on_a_pipe_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """A script reads every character."""
    print_table(HEADER, ROWS)
    assert ROWS[0][2] in capsys.readouterr().out


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_on_a_terminal_a_row_fits_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """The widest columns are cut with an ellipsis, numbers never; a wide terminal shows everything."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((columns, 24)))
    print_table(HEADER, ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert "12" in lines[1].split()
    assert (columns == 200) == (ROWS[0][2] in lines[1])
