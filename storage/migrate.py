"""Migrations: upgrade a database to the newest schema, or return the SQL that would."""

import io
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from storage.database import Connection, driver_url

_SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(url: str, revision: str = "head") -> None:
    """Migrate the database at `url` to `revision`. Blocks; runs its own event loop.

    Raises what asyncpg raises when the server cannot be reached.
    """
    command.upgrade(_config(url), revision)


def upgrade_sql(revision: str = "head") -> str:
    """Return the SQL that brings an empty database to `revision`, without connecting to a server."""
    buffer = io.StringIO()
    command.upgrade(_config("postgresql://", buffer), revision, sql=True)
    return buffer.getvalue()


def newest_revision() -> str:
    """Return the revision that this program needs."""
    head = ScriptDirectory.from_config(_config("postgresql://")).get_current_head()
    if head is None:
        raise AssertionError("there are no migrations")
    return head


def known_revisions() -> frozenset[str]:
    """Return every revision that this program knows."""
    return frozenset(
        script.revision for script in ScriptDirectory.from_config(_config("postgresql://")).walk_revisions()
    )


async def current_revision(connection: Connection) -> str | None:
    """Return the revision that the database has, or None when it was never migrated."""
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
    return revision


def _config(url: str, output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(_SCRIPTS))
    # configparser expands "%", which passwords in URLs contain.
    config.set_main_option("sqlalchemy.url", driver_url(url).replace("%", "%%"))
    return config
