"""How a process ends itself: on a bug, or to be restarted. Its batch is redelivered."""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

logger = logging.getLogger(__name__)

EXIT_BUG: Final = 70
# EX_TEMPFAIL: not a bug; the next process looks up where to read from.
EXIT_START_ANEW: Final = 75


def crash(message: str, bug: BaseException) -> NoReturn:
    """Log the bug and end the process with exit code 70, at once: no handler and no `finally` runs any more."""
    logger.critical(message, exc_info=bug)
    logging.shutdown()
    os._exit(EXIT_BUG)


def start_anew(message: str) -> NoReturn:
    """Log one line and end the process with exit code 75, at once, so that its supervisor restarts it."""
    logger.error(message)
    logging.shutdown()
    os._exit(EXIT_START_ANEW)


@contextmanager
def crash_on_bug(message: str) -> Iterator[None]:
    """Crash on whatever escapes the block; only a cancelled or closed coroutine may leave it.

    Otherwise a task that died of an exception would leave the worker running without that task.
    """
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as bug:  # noqa: BLE001 - SystemExit out of a task is a bug as well
        crash(message, bug)
