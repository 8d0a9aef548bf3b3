"""A TCP proxy in front of PostgreSQL that can cut a connection around COMMIT.

It reads just enough of the protocol: messages from the client are a type byte, a length and a body, and asyncpg sends
a transaction's COMMIT as a simple query.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import urlsplit

Cut = Literal["before", "after"]


class Proxy:
    """A running proxy; `cut_next` says what happens to the next COMMIT."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut_next: Cut | None = None
        self.cuts = 0
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        if current is not None:
            self._tasks.add(current)
            current.add_done_callback(self._tasks.discard)
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._upstream)
        answers = asyncio.create_task(_copy(upstream_reader, writer))
        requests = asyncio.create_task(self._requests(reader, upstream_writer, answers))
        try:
            # Whichever side hangs up, the other hears of it. Answers that were cut off are no hanging up.
            await asyncio.wait({requests, answers}, return_when=asyncio.FIRST_COMPLETED)
            if answers.cancelled():
                await requests
        finally:
            requests.cancel()
            answers.cancel()
            await asyncio.gather(requests, answers, return_exceptions=True)
            for one in (writer, upstream_writer):
                one.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, answers: asyncio.Task[None]
    ) -> None:
        kind = b""  # the first message has no type byte
        while True:
            length = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(length, "big") - 4)
            cut = self.cut_next if kind == b"Q" and body.upper().startswith(b"COMMIT") else None
            if cut == "before":
                self.cut_next, self.cuts = None, self.cuts + 1
                return
            if cut == "after":
                # The server gets it and commits; its answer is never passed on.
                answers.cancel()
            upstream.write(kind + length + body)
            await upstream.drain()
            if cut == "after":
                self.cut_next, self.cuts = None, self.cuts + 1
                await asyncio.sleep(0.3)
                return
            kind = await reader.readexactly(1)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Give a proxy in front of the database, and the database's address through it."""
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "", parts.port or 5432)
    await proxy.start()
    try:
        yield proxy, url.replace(f":{parts.port}/", f":{proxy.port}/") + "?sslmode=disable"
    finally:
        await proxy.stop()
