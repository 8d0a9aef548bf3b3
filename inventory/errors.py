"""The one exception whose message is written for the operator."""


class OperatorError(Exception):
    """Something outside the program is wrong, and an operator can fix it.

    The message says in one sentence what is wrong and what to do. The command line prints it without a traceback and
    exits with code 2.
    """
