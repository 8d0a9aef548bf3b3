"""A pooler between the worker and PostgreSQL: the worker does not start, and one line says which setting to change."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from dev.servers.process import free_port
from inventory import preflight
from inventory.errors import OperatorError
from inventory.settings import Settings
from tests.integration.stream import eventually

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
NOT_PASSED_ON = (
    "enable_seqscan, enable_hashjoin, enable_mergejoin, enable_material, jit, enable_bitmapscan, enable_sort, "
    "lock_timeout, idle_in_transaction_session_timeout, statement_timeout, "
    "tcp_keepalives_idle, tcp_keepalives_interval, tcp_keepalives_count"
)


@contextmanager
def _pgbouncer(url: str, directory: Path, **options: str) -> Iterator[str]:
    """Run PgBouncer in front of the server; gives its URL."""
    address = urlsplit(url)
    port = free_port()
    directory.chmod(0o755)
    (directory / "users.txt").write_text(f'"{address.username}" "{address.password}"\n')
    lines = {"listen_addr": "127.0.0.1", "listen_port": str(port), "unix_socket_dir": "", "auth_type": "plain"}
    lines |= {"auth_file": str(directory / "users.txt"), **options}
    settings = "\n".join(f"{name} = {value}" for name, value in lines.items())
    (directory / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={address.hostname} port={address.port}\n[pgbouncer]\n{settings}\n"
    )
    command = [str(PGBOUNCER), "-u", "nobody", str(directory / "pgbouncer.ini")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield url.replace(f":{address.port}/", f":{port}/")
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer")
@pytest.mark.parametrize(
    "options",
    [
        {"pool_mode": "session"},
        {"pool_mode": "session", "ignore_startup_parameters": NOT_PASSED_ON},
        {"pool_mode": "transaction", "ignore_startup_parameters": NOT_PASSED_ON},
    ],
    ids=["session", "settings ignored", "transaction"],
)
async def test_a_pooler_is_refused(database_url: str, tmp_path: Path, options: dict[str, str]) -> None:
    """Whether it refuses the settings, drops them or shares sessions, the line is the same and names the setting."""
    if options["pool_mode"] == "transaction":
        # As an operator may do for a pooler: the settings are right, and only the sessions are shared.
        connection = await asyncpg.connect(database_url)
        await connection.execute(f"ALTER DATABASE {urlsplit(database_url).path[1:]} SET enable_seqscan = off")
        await connection.close()
    with _pgbouncer(database_url, tmp_path, **options) as url:

        async def refused() -> str | None:
            try:
                await preflight.check_pooling(Settings(database_url=url))
            except OperatorError as error:
                return None if "cannot be used" in str(error) else str(error)
            return "accepted"

        assert preflight.POOLER == await eventually(refused)


async def test_postgresql_itself_is_accepted(database_url: str) -> None:
    """Two sessions are two server processes, and have the settings."""
    await preflight.check_pooling(Settings(database_url=database_url))
