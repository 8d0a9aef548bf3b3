"""Connections to PostgreSQL, with every timeout and planner setting said here."""

from typing import Any, TypeAlias

import asyncpg

# asyncpg is published without types; these names are for the reader.
Connection: TypeAlias = Any
Pool: TypeAlias = Any

# The worker's own statements are index look-ups by arrays of keys, at every table size. A generic
# plan cached while a table was small or without statistics would scan it whole, and be kept until
# the next ANALYZE: measured at a factor of 10. These settings leave the planner only the look-ups.
PLANNER = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "jit": "off",
}

# A look at the outbox reads its index in order and stops at the limit. A bitmap would read every entry of rows
# published since the last vacuum, never mark them dead, and sort what is left.
_QUEUE_PLANNER = {"enable_bitmapscan": "off", "enable_sort": "off"}

# A worker that is stopped in the middle of a transaction (SIGSTOP, a paused machine) must not keep
# its row locks: the server ends it, and the worker finds its batch undone. A relay holds its shards outside of any
# transaction: where its machine is gone without a word, only the connection's silence tells, for which operating
# systems wait two hours unless told otherwise.
_TIMEOUTS = {
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "15s",
    "statement_timeout": "60s",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


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
        # None is held open for its own sake: while the server is away, asyncpg would log each attempt at a reserve.
        min_size=0,
        max_size=size,
        timeout=10,
        command_timeout=60,
        # What is done on these connections leaves nothing behind; asyncpg's reset would cost a round trip each time.
        reset=_end_transaction,
        max_inactive_connection_lifetime=300,
        server_settings={"application_name": name, **PLANNER, **_TIMEOUTS},
    )


async def _end_transaction(connection: Connection) -> None:
    """End what a cancelled task left open; nothing else is ever set on these connections."""
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")


async def connect_worker(url: str, name: str) -> asyncpg.Connection:
    """Open the one connection of a relay, kept for its locks and for looking at the outbox in order."""
    return await asyncpg.connect(
        plain_url(url),
        timeout=10,
        command_timeout=60,
        server_settings={"application_name": name, **PLANNER, **_QUEUE_PLANNER, **_TIMEOUTS},
    )


async def connect(url: str, name: str = "inventory") -> asyncpg.Connection:
    """Open one connection for people's questions: the planner is free, nothing is cut short."""
    return await asyncpg.connect(plain_url(url), timeout=10, server_settings={"application_name": name})
