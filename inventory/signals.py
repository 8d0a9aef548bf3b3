"""SIGTERM and SIGINT: the first asks for an orderly stop, the second ends the process at once."""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

logger = logging.getLogger(__name__)

EXIT_STOPPED_AT_ONCE: Final = 130


@contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` at the first SIGTERM or SIGINT inside the block; leave the process at the second."""
    loop = asyncio.get_running_loop()

    def handle() -> None:
        if stop.is_set():
            logger.warning("Stopped at once by a second signal; uncommitted records will be redelivered")
            logging.shutdown()
            os._exit(EXIT_STOPPED_AT_ONCE)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
