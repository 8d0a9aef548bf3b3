"""The demo outlives a process that ends while it is being asked."""

import asyncio

from dev.demo.processes import get
from dev.servers.process import LOOPBACK


async def test_an_answer_that_breaks_off_counts_as_none() -> None:
    """A worker that is killed halfway through its metrics has not answered; the demo goes on and reports its end."""

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\ninventory_ev")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(break_off, LOOPBACK, 0)
    async with server:
        assert await asyncio.to_thread(get, server.sockets[0].getsockname()[1], "/metrics") is None
