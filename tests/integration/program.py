"""A command of the program in a process of its own, as an operator runs it."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from inventory.settings import Settings
from tests.integration.stream import environment_of, eventually

_REPOSITORY = Path(__file__).parents[2]
STOP_SECONDS = 60.0


class Program:
    """A running `inventory run`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())

    async def said(self, pattern: str) -> re.Match[str]:
        """Wait for a line of output."""

        async def found() -> re.Match[str] | None:
            assert self.process.returncode is None or self._match(pattern), self.lines
            return self._match(pattern)

        match: re.Match[str] = await eventually(found, why=f"{pattern!r} in {self.lines}")
        return match

    def _match(self, pattern: str) -> re.Match[str] | None:
        return next((match for line in self.lines if (match := re.search(pattern, line))), None)

    async def port(self) -> int:
        """Wait until it is ready; return its HTTP port."""
        return int((await self.said(r"Ready: .* on port (\d+)")).group(1))

    async def exit_code(self) -> int:
        """Wait for its end."""
        async with asyncio.timeout(STOP_SECONDS):
            await self._reading
            return await self.process.wait()


@asynccontextmanager
async def running(settings: Settings, *arguments: str, **changes: str) -> AsyncIterator[Program]:
    """Run a command, `run` by default; it is killed at the end of the block where it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "inventory",
        *(arguments or ("run",)),
        cwd=_REPOSITORY,
        env={"PATH": "/usr/bin:/bin", **environment_of(settings), **changes},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    program = Program(process)
    try:
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await program.exit_code()
