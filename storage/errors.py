"""Which database errors pass by themselves, which are in the data, and which are bugs; and any error in words."""

import asyncpg

# The server or the way to it: try again until it is back.
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

# Others were faster; the same batch succeeds when it is tried again.
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
    """Say whether trying the same batch again can succeed because others are done by then."""
    return isinstance(error, CONTENTION)


def is_unavailable(error: BaseException) -> bool:
    """Say whether the database could not be reached or could not work."""
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg's one class for "closed under me" and for being called wrongly: only the first passes.
        return any(word in str(error) for word in ("closed", "closing", "released"))
    # LockNotAvailableError is a subclass of an error above, but it is contention.
    return isinstance(error, UNAVAILABLE) and not is_contention(error)


def is_data(error: BaseException) -> bool:
    """Say whether the error comes from a value, so that the batch can be bisected for it."""
    return isinstance(error, DATA) and not is_contention(error) and not is_unavailable(error)


def in_words(error: BaseException) -> str:
    """Return what an error says, or its name where it says nothing, as a timeout does."""
    return str(error) or type(error).__name__
