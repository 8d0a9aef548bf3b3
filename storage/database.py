"""Connections to PostgreSQL, with every timeout and planner setting in one place."""

from typing import Any, TypeAlias

import asyncpg

# asyncpg is published without types: to mypy both are Any, the names are for readers.
Connection: TypeAlias = Any
Pool: TypeAlias = Any

# The worker's statements look rows up by arrays of keys, which an index serves best at every table size. A generic plan
# cached while a table was small or had no statistics would scan the table, and stay cached until the next ANALYZE: ten
# times slower when measured. These settings leave the planner only index look-ups.
PLANNER = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "jit": "off",
}

# Polling the outbox reads its index in order and stops at the limit. A bitmap scan would read the entries of all rows
# published since the last vacuum, would never mark them dead, and would have to sort the rest.
_QUEUE_PLANNER = {"enable_bitmapscan": "off", "enable_sort": "off"}

# A worker that is frozen in the middle of a transaction (SIGSTOP, a paused machine) must not keep its row locks: the
# server ends the session, and the worker's batch is rolled back. A relay holds its shards by session locks, outside of
# any transaction. If its machine disappears, only TCP keepalives end the session, and by default they take two hours.
_TIMEOUTS = {
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "15s",
    "statement_timeout": "60s",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

# For a server that no longer answers. Longer than statement_timeout, so that a slow statement is reported as one.
COMMAND_TIMEOUT_SECONDS = 75


def plain_url(url: str) -> str:
    """Return `url` as libpq and asyncpg read it, without SQLAlchemy's driver name."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


def driver_url(url: str) -> str:
    """Return `url` as SQLAlchemy reads it, with its driver named."""
    return plain_url(url).replace("postgresql://", "postgresql+asyncpg://", 1)


async def open_pool(url: str, size: int, name: str = "inventory-worker") -> Pool:
    """Open a pool of at most `size` connections for the worker's statements."""
    return await asyncpg.create_pool(
        plain_url(url),
        # No idle connections are kept: while the server is away, asyncpg would log each attempt to open one.
        min_size=0,
        max_size=size,
        timeout=10,
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        # asyncpg's own reset costs a round trip per use, and the worker leaves no session state to reset.
        reset=_end_transaction,
        max_inactive_connection_lifetime=300,
        server_settings={"application_name": name, **PLANNER, **_TIMEOUTS},
    )


async def _end_transaction(connection: Connection) -> None:
    """Roll back the transaction that a cancelled task left open; there is no other session state."""
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")


async def connect_worker(url: str, name: str) -> asyncpg.Connection:
    """Open the connection of a relay, which keeps it for its session locks and for polling the outbox."""
    return await asyncpg.connect(
        plain_url(url),
        timeout=10,
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        server_settings={"application_name": name, **PLANNER, **_QUEUE_PLANNER, **_TIMEOUTS},
    )


async def connect(url: str, name: str = "inventory") -> asyncpg.Connection:
    """Open a connection for a command: the planner is free to choose and nothing times out."""
    return await asyncpg.connect(plain_url(url), timeout=10, server_settings={"application_name": name})
