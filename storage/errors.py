"""Classifies database errors: transient, contention, or caused by a value. Any other is a bug."""

import asyncpg

# The server, or the network to it, is unavailable: wait and retry.
UNAVAILABLE: tuple[type[BaseException], ...] = (
    OSError,  # includes ConnectionError and TimeoutError
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientResourcesError,  # disk full, out of memory
    asyncpg.ReadOnlySQLTransactionError,  # a standby, before it is promoted
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.QueryCanceledError,  # statement_timeout, or an operator
    asyncpg.OperatorInterventionError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # ALTER DATABASE ... ALLOW_CONNECTIONS false
    asyncpg.InternalClientError,  # asyncpg's protocol state after a cut connection
)

# Another transaction got in the way: the same batch succeeds when it is retried.
CONTENTION: tuple[type[BaseException], ...] = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.UniqueViolationError,  # another worker made the same order, cart, product or inbox row
    asyncpg.InvalidCachedStatementError,  # the tables were migrated under us
)

# What a value in an event can cause, however well it was checked.
DATA: tuple[type[BaseException], ...] = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,  # an index row too large
    OverflowError,
)


def is_contention(error: BaseException) -> bool:
    """Say whether the batch lost against another transaction, so that a retry can succeed."""
    return isinstance(error, CONTENTION)


def is_unavailable(error: BaseException) -> bool:
    """Say whether the database could not be reached, or could not serve the statement."""
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg's one class for "closed under me" and for being called wrongly: only the first passes.
        return any(word in str(error) for word in ("closed", "closing", "released"))
    # LockNotAvailableError is a subclass of an error above, but it is contention.
    return isinstance(error, UNAVAILABLE) and not is_contention(error)


def is_data(error: BaseException) -> bool:
    """Say whether a value caused the error, so that bisecting the batch finds its event."""
    return isinstance(error, DATA) and not is_contention(error) and not is_unavailable(error)


def in_words(error: BaseException) -> str:
    """Return what an error says, or its name where it says nothing, as a timeout does."""
    return str(error) or type(error).__name__
