"""Which database errors are waited out, which are retried at once, and which are neither."""

import asyncpg
import pytest

from storage.errors import is_contention, is_unavailable


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.ObjectNotInPrerequisiteStateError("database is not currently accepting connections"),
        asyncpg.AdminShutdownError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_unavailable_database_is_waited_for(error: Exception) -> None:
    """The same statement succeeds once the database is back."""
    assert (True, False) == (is_unavailable(error), is_contention(error))


@pytest.mark.parametrize("error", [asyncpg.LockNotAvailableError(), asyncpg.DeadlockDetectedError()])
def test_contention_is_no_outage(error: Exception) -> None:
    """It is retried a bounded number of times; waiting for it as for an outage would have no bound."""
    assert (False, True) == (is_unavailable(error), is_contention(error))


@pytest.mark.parametrize("error", [asyncpg.InterfaceError("the server expects 1 argument"), ZeroDivisionError()])
def test_a_bug_is_neither(error: Exception) -> None:
    """A retry would not help, and would hide it."""
    assert (False, False) == (is_unavailable(error), is_contention(error))
