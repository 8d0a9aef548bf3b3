"""Runs `inventory` commands in processes of their own."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import NamedTuple

TIMEOUT_SECONDS = 60.0


class Result(NamedTuple):
    """Exit code and output of a command."""

    exit_code: int
    stdout: str
    stderr: str


Run = Callable[..., Awaitable[Result]]


def runner() -> Run:
    """Return a function that runs `inventory` with the given arguments."""

    async def run(*arguments: str) -> Result:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "inventory",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(TIMEOUT_SECONDS):
            stdout, stderr = await process.communicate()
        return Result(process.returncode or 0, stdout.decode(), stderr.decode())

    return run
