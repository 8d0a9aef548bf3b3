"""The servers of the benchmarks: real Kafka, and PostgreSQL with full durability.

PostgreSQL's directory is kept between runs, because generating the large database takes minutes.
"""

import contextlib
import functools
import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from dev.benchmarks.errors import BenchmarkError
from dev.servers import kafka, postgres
from dev.servers.errors import ServersError
from dev.servers.kafka import Broker
from dev.servers.postgres import PostgresServer
from storage import migrate

CACHE = Path(__file__).parents[2] / ".cache" / "benchmarks"

# Durability: PostgreSQL's defaults, made explicit. Memory: the default is only 128 MB. Write-ahead log: large enough
# that no checkpoint slows one contestant's run and not another's.
POSTGRES_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
}

_SCRATCH = "bench_run_"


@dataclass(frozen=True, slots=True)
class Servers:
    """The running servers; databases are copies of templates."""

    broker: Broker
    postgres: PostgresServer

    def has_template(self, name: str) -> bool:
        """Tell whether the template exists, from this run or an earlier one."""
        return bool(self.postgres.sql(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"))  # noqa: S608 - our names

    @contextmanager
    def new_template(self, name: str) -> Iterator[str]:
        """Give the URL of a migrated database that is renamed to `name` if the block succeeds."""
        draft = f"{_SCRATCH}{uuid.uuid4().hex[:8]}"
        self.postgres.sql(f"CREATE DATABASE {draft} TEMPLATE {migrated_name()}")
        yield self.postgres.database_url(draft)
        self.postgres.sql(f"ALTER DATABASE {draft} RENAME TO {name}")

    @contextmanager
    def database(self, template: str) -> Iterator[str]:
        """Give the URL of a copy of a template, flushed to disk; it is dropped afterwards."""
        name = f"{_SCRATCH}{uuid.uuid4().hex[:8]}"
        self.postgres.sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        # Flush now what the copy left dirty, so that it does not slow the contestant.
        self.postgres.sql("CHECKPOINT")
        try:
            yield self.postgres.database_url(name)
        finally:
            self.postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def copy(self, url: str, name: str) -> None:
        """Make a template of the database at `url`, to which nobody is connected."""
        self.postgres.sql(f"CREATE DATABASE {name} TEMPLATE {url.rpartition('/')[2]} STRATEGY file_copy")

    def drop_template(self, name: str) -> None:
        """Drop a template."""
        self.postgres.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@functools.cache
def schema_fingerprint() -> str:
    """Return a hash of the schema, part of every template's name."""
    return hashlib.sha256(migrate.upgrade_sql().encode()).hexdigest()[:8]


def migrated_name() -> str:
    """Return the name of the migrated, empty template."""
    return f"bench_migrated_{schema_fingerprint()}"


@contextmanager
def open_servers(directory: Path | None) -> Iterator[Servers]:
    """Start the servers; PostgreSQL in `directory` (kept) or in a scratch directory (removed).

    Raises:
        BenchmarkError: this machine offers no real Kafka, or a server did not start.
    """
    choice = kafka.choose()
    if not choice.real:
        raise BenchmarkError(f"a benchmark needs real Kafka and this machine offers only the {choice.description}")
    with contextlib.ExitStack() as stack:
        try:
            server = postgres.start(directory, settings=POSTGRES_SETTINGS)
            stack.callback(server.close)
            broker = kafka.start(choice)
            stack.callback(broker.close)
        except ServersError as error:
            raise BenchmarkError(str(error)) from error
        _drop_leftovers(server)
        found = Servers(broker, server)
        if not found.has_template(migrated_name()):
            # Renamed only when complete, so that an interrupted run leaves no half-migrated template.
            server.sql(f"CREATE DATABASE {_SCRATCH}migrating")
            migrate.upgrade(server.database_url(f"{_SCRATCH}migrating"))
            server.sql(f"ALTER DATABASE {_SCRATCH}migrating RENAME TO {migrated_name()}")
        yield found


async def load_stock(url: str, stock: dict[str, int]) -> None:
    """Insert products with their stock and the matching ledger entries."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_LOAD_STOCK, list(stock), list(stock.values()))
        # Published long ago, as in a shop that runs.
        await connection.execute("DELETE FROM level_changes")
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


def _drop_leftovers(server: PostgresServer) -> None:
    """Drop databases that a killed run left behind, and templates of other schema versions."""
    names = server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'bench\\_%'").split()
    for name in names:
        if name.startswith(_SCRATCH) or not name.endswith(schema_fingerprint()):
            server.sql(f"DROP DATABASE {name} WITH (FORCE)")


_LOAD_STOCK = """
WITH stock AS (SELECT * FROM unnest($1::text[], $2::bigint[]) AS u (product_id, quantity)),
stocked AS (
    INSERT INTO inventory (product_id, on_hand, reserved, low_stock_threshold, stock_status, alert_status,
        version, last_sequence, updated_at)
    SELECT product_id, quantity, 0, 10,
        CASE WHEN quantity > 10 THEN 'ok' WHEN quantity > 0 THEN 'low' ELSE 'out' END,
        CASE WHEN quantity > 10 THEN 'ok' WHEN quantity > 0 THEN 'low' ELSE 'out' END,
        1, CASE WHEN quantity > 0 THEN 1 ELSE 0 END, now()
    FROM stock
)
INSERT INTO inventory_transactions (product_id, sequence, type, quantity, on_hand_before, on_hand_after,
    reserved_before, reserved_after, reference_type, reference_id, event_id, occurred_at, recorded_at)
SELECT product_id, 1, 'IN', quantity, 0, quantity, 0, 0, 'IMPORT', product_id, 'stock-' || product_id, now(), now()
FROM stock WHERE quantity > 0
"""
