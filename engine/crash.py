"""How a process ends itself: on a bug of ours, or to start anew. It is restarted, and its batch is redelivered."""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

logger = logging.getLogger(__name__)

EXIT_BUG: Final = 70
# EX_TEMPFAIL: nothing is wrong with the program, and the next process finds its place.
EXIT_START_ANEW: Final = 75


def crash(message: str, bug: BaseException) -> NoReturn:
    """Log the bug and end the process with exit code 70, at once: no handler and no `finally` runs any more."""
    logger.critical(message, exc_info=bug)
    logging.shutdown()
    os._exit(EXIT_BUG)


def start_anew(message: str) -> NoReturn:
    """Log one line and end the process with exit code 75, at once, so that its supervisor starts it anew."""
    logger.error(message)
    logging.shutdown()
    os._exit(EXIT_START_ANEW)


@contextmanager
def crash_on_bug(message: str) -> Iterator[None]:
    """Crash on whatever escapes the block; only a cancelled or closed coroutine may leave it.

    A task that died of an exception would leave the rest of the worker running half a program.
    """
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as bug:  # noqa: BLE001 - SystemExit out of a task is a bug as well
        crash(message, bug)
