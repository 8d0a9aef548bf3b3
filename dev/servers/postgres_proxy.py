"""A TCP proxy in front of PostgreSQL that can cut connections, at any time or around a COMMIT."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import urlsplit

from dev.servers.process import LOOPBACK

_CHUNK_BYTES = 64 * 1024
_ANSWER_TIMEOUT_SECONDS = 2.0

Cut = Literal["before", "after"]


class PostgresProxy:
    """Forwards bytes to `target_port` on the loopback address; runs in the event loop that started it."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cuts: list[Cut] = []
        self.cuts_made = 0
        self.port = 0

    async def start(self) -> None:
        """Listen on a free loopback port."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0, limit=_CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Reset every connection and stop listening."""
        if self._server is not None:
            self._server.close()
        # Twice: the task of a connection accepted just now starts only during the first round.
        for _ in range(2):
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        # An aborted transport closes its socket in the next iteration of the loop.
        await asyncio.sleep(0.01)

    def cut_commits(self, cut: Cut, count: int = 1) -> None:
        """Reset the connections of the next `count` COMMITs: before PostgreSQL receives them, or after it obeyed."""
        self._cuts = [cut] * count

    def cut_no_more_commits(self) -> None:
        """Forget the cuts that were asked for and not made."""
        self._cuts = []

    def cut_all(self) -> None:
        """Reset every open connection."""
        for link in list(self._links):
            link.cut()

    def take_cut(self) -> Cut | None:
        """Return what to do with the COMMIT that just arrived, and count it if it is cut."""
        if not self._cuts:
            return None
        self.cuts_made += 1
        return self._cuts.pop()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(LOOPBACK, self._target_port)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
            return
        link = _Link(self, (reader, writer), (server_reader, server_writer))
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


class _Link:
    """A client's connection and the matching connection to the server."""

    def __init__(
        self,
        proxy: PostgresProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._discard_answer = False

    async def run(self) -> None:
        """Forward in both directions until either side ends."""
        directions = [asyncio.create_task(self._to_server()), asyncio.create_task(self._to_client())]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.cut()
            for direction in directions:
                direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)
        for _, writer in (self._client, self._server):
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def cut(self) -> None:
        """Reset both connections."""
        for _, writer in (self._client, self._server):
            writer.transport.abort()

    async def _to_server(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := await self._client[0].read(_CHUNK_BYTES):
                # asyncpg ends a transaction with the simple query `COMMIT;`; nothing else we send contains that text.
                cut = self._proxy.take_cut() if b"COMMIT;" in chunk else None
                if cut == "before":
                    return
                self._discard_answer = cut == "after"
                self._server[1].write(chunk)
                await self._server[1].drain()
                if self._discard_answer:
                    # `_to_client` ends the link when PostgreSQL answers; the client never sees that answer.
                    await asyncio.sleep(_ANSWER_TIMEOUT_SECONDS)
                    return

    async def _to_client(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := await self._server[0].read(_CHUNK_BYTES):
                if self._discard_answer:
                    return
                self._client[1].write(chunk)
                await self._client[1].drain()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[PostgresProxy, str]]:
    """Give a proxy in front of a server on the loopback address, and the database's URL through it."""
    port = urlsplit(url).port
    if port is None:
        raise ValueError(f"no port in {url!r}")
    proxy = PostgresProxy(port)
    await proxy.start()
    try:
        yield proxy, url.replace(f":{port}/", f":{proxy.port}/")
    finally:
        await proxy.stop()
