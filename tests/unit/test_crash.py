"""Crashing on a bug: what ends the process, with which code, and what does not."""

import asyncio
import logging
import os
from typing import NoReturn

import pytest

from engine.crash import EXIT_BUG, crash_on_bug


class Exited(BaseException):
    """Stands in for the end of the process."""


@pytest.fixture(autouse=True)
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Exit codes, where the process would have ended."""
    codes: list[int] = []

    def exit_(code: int) -> NoReturn:
        codes.append(code)
        raise Exited

    monkeypatch.setattr(os, "_exit", exit_)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    return codes


@pytest.mark.parametrize("bug", [ZeroDivisionError("a bug"), SystemExit(0), KeyboardInterrupt()])
def test_whatever_escapes_ends_the_process(
    exits: list[int], bug: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """The exit code is 70, and the log names the bug with its trace."""
    with pytest.raises(Exited), crash_on_bug("A bug stopped this"):
        raise bug
    assert [EXIT_BUG] == exits
    (record,) = caplog.records
    assert ("CRITICAL", "A bug stopped this") == (record.levelname, record.getMessage())
    assert record.exc_info is not None
    assert bug is record.exc_info[1]


async def test_a_cancelled_task_is_no_bug(exits: list[int]) -> None:
    """A cancellation ends its task as it would without the block."""

    async def guarded() -> None:
        with crash_on_bug("A bug stopped this"):
            await asyncio.Event().wait()

    task = asyncio.create_task(guarded())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [] == exits


def test_a_coroutine_that_is_closed_is_no_bug(exits: list[int]) -> None:
    """What a loop that ended leaves behind is closed by the garbage collector."""

    async def guarded() -> None:
        with crash_on_bug("A bug stopped this"):
            await asyncio.sleep(0)

    coroutine = guarded()
    coroutine.send(None)
    coroutine.close()
    assert [] == exits


def test_a_block_that_succeeds_goes_on(exits: list[int]) -> None:
    """Nothing happens where nothing is wrong."""
    with crash_on_bug("A bug stopped this"):
        pass
    assert [] == exits
