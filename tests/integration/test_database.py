"""The worker's connections have every timeout that keeps a stopped process from holding locks."""

import pytest

from storage.database import connect_worker, open_pool

EXPECTED = {
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "15s",
    "statement_timeout": "1min",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


@pytest.mark.parametrize("name", EXPECTED)
async def test_every_connection_of_a_worker_has_its_timeouts(database_url: str, name: str) -> None:
    """A worker that stops in the middle of a transaction (SIGSTOP, a paused machine) loses its row locks."""
    pool = await open_pool(database_url, 1)
    relay = await connect_worker(database_url, "a-relay")
    try:
        values = [await one.fetchval("SELECT current_setting($1)", name) for one in (pool, relay)]
    finally:
        await relay.close()
        await pool.close()
    assert [EXPECTED[name]] * 2 == values
