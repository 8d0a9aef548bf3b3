"""A TCP proxy between the workers and PostgreSQL that can cut a connection in the middle of a COMMIT."""

import asyncio
import contextlib
from typing import Literal

from dev.servers.process import LOOPBACK

CHUNK_BYTES = 64 * 1024
ANSWER_TIMEOUT_SECONDS = 2.0

Cut = Literal["before", "after"]


class Proxy:
    """Forwards bytes to `target_port`; runs in the event loop that started it."""

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
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut everything and listen no longer."""
        if self._server is not None:
            self._server.close()
        # Twice: a connection that was accepted just now begins its task in between.
        for _ in range(2):
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        # An aborted transport closes its socket in the loop's next turn.
        await asyncio.sleep(0.01)

    def cut_commits(self, cut: Cut, count: int) -> None:
        """Cut the connections of the next `count` COMMITs: before PostgreSQL sees it, or after it has obeyed."""
        self._cuts = [cut] * count

    def heal(self) -> None:
        """Cut no more commits."""
        self._cuts = []

    def cut_all(self) -> None:
        """Cut every connection there is, without a goodbye."""
        for link in list(self._links):
            link.cut()

    def take_cut(self) -> Cut | None:
        """Return what shall happen to this COMMIT."""
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
    """One client's connection and the one to the server that belongs to it."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._swallow = False

    async def run(self) -> None:
        """Forward both ways until one side ends."""
        ways = [asyncio.create_task(self._to_server()), asyncio.create_task(self._to_client())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.cut()
            for way in ways:
                way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for _, writer in (self._client, self._server):
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def cut(self) -> None:
        """Reset both connections."""
        for _, writer in (self._client, self._server):
            writer.transport.abort()

    async def _to_server(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := await self._client[0].read(CHUNK_BYTES):
                # asyncpg ends a transaction by the simple query `COMMIT;`, and that text is in nothing else we send.
                cut = self._proxy.take_cut() if b"COMMIT;" in chunk else None
                if cut == "before":
                    return
                self._swallow = cut == "after"
                self._server[1].write(chunk)
                await self._server[1].drain()
                if self._swallow:
                    # `_to_client` ends the link when PostgreSQL has answered; the worker never hears of it.
                    await asyncio.sleep(ANSWER_TIMEOUT_SECONDS)
                    return

    async def _to_client(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := await self._server[0].read(CHUNK_BYTES):
                if self._swallow:
                    return
                self._client[1].write(chunk)
                await self._client[1].drain()
