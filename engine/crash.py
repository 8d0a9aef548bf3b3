"""What happens to a process that met a bug of ours: it leaves, so that it is restarted and redelivered."""

import logging
import os
from typing import Final, NoReturn

logger = logging.getLogger(__name__)

EXIT_BUG: Final = 70


def crash(message: str, bug: BaseException) -> NoReturn:
    """Log the bug and end the process with exit code 70, without running what else it would do on its way out."""
    logger.critical(message, exc_info=bug)
    logging.shutdown()
    os._exit(EXIT_BUG)
