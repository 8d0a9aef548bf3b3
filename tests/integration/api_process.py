"""`inventory api` in a process of its own, and tokens that it accepts."""

import asyncio
import contextlib
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from api.auth import TokenRules
from inventory.tokens import DEVELOPMENT_ISSUER
from tests.integration.api_shop import SECRET

START_SECONDS = 120.0
STOP_SECONDS = 60.0
PROCESS_RULES = TokenRules(DEVELOPMENT_ISSUER, "inventory")
_READY = re.compile(r"API on port (\d+), health on port (\d+)")


class ApiProcess:
    """A running API: its ports, and how to end it."""

    def __init__(self, process: Process, port: int, health_port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.health_url = f"http://127.0.0.1:{health_port}"
        self.port = port

    def kill(self) -> None:
        """End it in the middle of whatever it does (SIGKILL)."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                self.process.kill()


@asynccontextmanager
async def api_process(database_url: str, **variables: str) -> AsyncIterator[ApiProcess]:
    """Run `inventory api` inside the block."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INVENTORY_")}
    environment = clean | {
        "INVENTORY_DATABASE_URL": database_url,
        "INVENTORY_API_HS256_SECRET": SECRET,
        "INVENTORY_API_HOST": "127.0.0.1",
        "INVENTORY_API_LISTEN_PORT": "0",
        "INVENTORY_HTTP_HOST": "127.0.0.1",
        "INVENTORY_HTTP_PORT": "0",
        "INVENTORY_LOG_FORMAT": "human",
        **variables,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "inventory", "api", env=environment, stdin=asyncio.subprocess.DEVNULL, stderr=PIPE
    )
    assert process.stderr is not None
    reader: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(START_SECONDS):
            found = None
            while found is None:
                line = (await process.stderr.readline()).decode()
                assert line, "the API ended before it was ready"
                found = _READY.search(line)
        reader = asyncio.create_task(_drain(process.stderr))
        yield ApiProcess(process, int(found[1]), int(found[2]))
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
        if reader is not None:
            await reader


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass


def client_of(api: ApiProcess, bearer: str) -> httpx.AsyncClient:
    """Return a client of the API with a token."""
    return httpx.AsyncClient(
        base_url=api.url,
        headers={"Authorization": f"Bearer {bearer}"},
        timeout=30,
        limits=httpx.Limits(max_connections=50),
    )
