"""Classifies database errors: what is done about each class. An error that no class names is a bug."""

import re
from enum import StrEnum

import asyncpg


class Remedy(StrEnum):
    """What to do about a database error."""

    WAIT = "wait"
    """The server is away, full, read-only or refuses us: wait as long as it takes, and say why."""
    RETRY = "retry"
    """Another transaction got in the way: the same batch succeeds when it is retried. If it never does, wait."""
    ISOLATE = "isolate"
    """The batch is too much, or the server is too slow; one error cannot tell. Retry, then bisect the batch."""
    BISECT = "bisect"
    """A value caused it: bisect the batch to find its event, which becomes a dead letter."""
    REFUSE = "refuse"
    """The server is set up in a way that cannot work: do not start, and name the setting to change."""
    CRASH = "crash"
    """A bug, or tables of another version: end the process; the checks at the start name a wrong version."""


class ContentionPersistsError(Exception):
    """Another transaction kept the batch from being applied, however often it was retried."""


# The class of an error decides, or the nearest of its base classes that stands here.
_REMEDIES: dict[type[BaseException], Remedy] = {
    ContentionPersistsError: Remedy.WAIT,
    OSError: Remedy.WAIT,  # includes ConnectionError and TimeoutError
    OverflowError: Remedy.BISECT,
    asyncpg.PostgresError: Remedy.CRASH,
    asyncpg.FatalPostgresError: Remedy.WAIT,  # the server ended the session
    asyncpg.InterfaceError: Remedy.CRASH,  # but see `_CLOSED`
    # asyncpg's protocol state after a cut connection.
    asyncpg.InternalClientError: Remedy.WAIT,
    asyncpg.exceptions.OutdatedSchemaCacheError: Remedy.RETRY,
    # 08 connection exceptions
    asyncpg.PostgresConnectionError: Remedy.WAIT,
    # 0A
    asyncpg.InvalidCachedStatementError: Remedy.RETRY,  # the tables were migrated under us
    # 22, 23 values; what a value in an event can cause, however well it was checked
    asyncpg.DataError: Remedy.BISECT,
    asyncpg.IntegrityConstraintViolationError: Remedy.BISECT,
    asyncpg.UniqueViolationError: Remedy.RETRY,  # another worker made the same order, cart, product or inbox row
    # 25 transactions
    asyncpg.ReadOnlySQLTransactionError: Remedy.WAIT,  # a standby, before it is promoted
    asyncpg.IdleInTransactionSessionTimeoutError: Remedy.WAIT,
    asyncpg.exceptions.TransactionTimeoutError: Remedy.ISOLATE,
    # 26, 42P05 a pooler gave a statement to another server connection than the one that prepared it
    asyncpg.InvalidSQLStatementNameError: Remedy.REFUSE,
    asyncpg.DuplicatePreparedStatementError: Remedy.REFUSE,
    # 28, 3D, 42501 a password that was rotated, a database that is being restored, a privilege that was revoked
    asyncpg.InvalidAuthorizationSpecificationError: Remedy.WAIT,
    asyncpg.InvalidCatalogNameError: Remedy.WAIT,
    asyncpg.InsufficientPrivilegeError: Remedy.WAIT,
    # 40 rollbacks
    asyncpg.TransactionRollbackError: Remedy.RETRY,
    asyncpg.StatementCompletionUnknownError: Remedy.WAIT,
    # 44, 54, P0 values again: a check of a view, an index row too large, a trigger of the shop's own
    asyncpg.WithCheckOptionViolationError: Remedy.BISECT,
    asyncpg.ProgramLimitExceededError: Remedy.BISECT,
    asyncpg.PLPGSQLError: Remedy.BISECT,
    # 53 resources
    asyncpg.InsufficientResourcesError: Remedy.WAIT,  # disk full, too many connections
    asyncpg.OutOfMemoryError: Remedy.ISOLATE,
    # 55 state
    asyncpg.ObjectNotInPrerequisiteStateError: Remedy.WAIT,  # ALTER DATABASE ... ALLOW_CONNECTIONS false
    asyncpg.CantChangeRuntimeParamError: Remedy.CRASH,
    asyncpg.exceptions.UnsafeNewEnumValueUsageError: Remedy.CRASH,
    asyncpg.LockNotAvailableError: Remedy.RETRY,
    # 57 an operator, a shutdown
    asyncpg.OperatorInterventionError: Remedy.WAIT,
    asyncpg.QueryCanceledError: Remedy.ISOLATE,  # statement_timeout
    # 58, 72, XX internal errors of the server
    asyncpg.PostgresSystemError: Remedy.WAIT,
    asyncpg.exceptions.SnapshotTooOldError: Remedy.RETRY,
    asyncpg.InternalServerError: Remedy.ISOLATE,
    asyncpg.DataCorruptedError: Remedy.WAIT,
    asyncpg.IndexCorruptedError: Remedy.WAIT,
}

# asyncpg has one class for "closed under me" and for being called wrongly: only the first passes.
_CLOSED = ("closed", "closing", "released")
# PgBouncer's words for a setting of ours that it neither passes on nor ignores.
_UNSUPPORTED_PARAMETER = re.compile(r"unsupported startup parameter")

_STATEMENT = re.compile(
    r"\s*(?:WITH\b.*?\b)?(SELECT|INSERT INTO|UPDATE|DELETE FROM|COPY|COMMIT|LOCK TABLE)\b(.*)",
    re.DOTALL | re.IGNORECASE,
)
_FROM = re.compile(r"\bFROM\s+(?:unnest\b.*?\bJOIN\s+)?([a-z_]\w*)", re.DOTALL | re.IGNORECASE)


def remedy_of(error: BaseException) -> Remedy:
    """Return what to do about an error."""
    if isinstance(error, asyncpg.InterfaceError) and any(word in str(error) for word in _CLOSED):
        return Remedy.WAIT
    if isinstance(error, asyncpg.ProtocolViolationError) and _UNSUPPORTED_PARAMETER.search(str(error)):
        return Remedy.REFUSE
    return next((_REMEDIES[kind] for kind in type(error).__mro__ if kind in _REMEDIES), Remedy.CRASH)


def is_contention(error: BaseException) -> bool:
    """Say whether the batch lost against another transaction, so that a retry can succeed."""
    return remedy_of(error) is Remedy.RETRY


def is_unavailable(error: BaseException) -> bool:
    """Say whether the database could not be reached, or could not serve the statement."""
    return remedy_of(error) in {Remedy.WAIT, Remedy.ISOLATE}


def is_suspect(error: BaseException) -> bool:
    """Say whether the batch may be what the server cannot serve, so that it is bisected if retries do not help."""
    return remedy_of(error) is Remedy.ISOLATE


def is_data(error: BaseException) -> bool:
    """Say whether a value caused the error, so that bisecting the batch finds its event."""
    return remedy_of(error) is Remedy.BISECT


def in_words(error: BaseException) -> str:
    """Return what an error says and which statement it ended, or its name where it says nothing, as a timeout does."""
    said = str(error) or type(error).__name__
    statement = _statement_of(error)
    return said if statement is None else f"{said}, in {statement}"


def _statement_of(error: BaseException) -> str | None:
    """Return the verb and the table of the statement that a timeout or a lock ended; other errors need none."""
    text = getattr(error, "query", None)
    if not isinstance(error, asyncpg.QueryCanceledError | asyncpg.LockNotAvailableError) or not text:
        return None
    found = _STATEMENT.match(text)
    if found is None:
        return None
    verb, rest = found[1].upper(), found[2]
    table = _FROM.search(rest) if verb == "SELECT" else re.match(r'\s*"?([a-z_]\w*)', rest, re.IGNORECASE)
    between = " FROM" if verb == "SELECT" else ""
    return verb if table is None else f"{verb}{between} {table[1]}"
