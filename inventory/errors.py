"""The one exception that a person at a terminal is meant to read."""


class OperatorError(Exception):
    """Something outside the program is wrong and an operator can mend it.

    The message is one sentence that names what is wrong and what to do. The command line prints it without
    a traceback and leaves with exit code 2.
    """
