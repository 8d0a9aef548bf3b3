"""Migrations: every way to the newest tables ends in the same database, and that is what `storage.tables` says."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from typer.testing import CliRunner, Result

from dev.servers.postgres import PostgresServer
from inventory.cli import app
from inventory.database import require_migrated
from inventory.errors import OperatorError
from storage import migrate
from storage.database import connect, driver_url
from storage.tables import metadata
from tests.integration.command_line import runner

# What a database has, in words of its own catalogs: columns, constraints and indexes with their conditions.
CATALOGS = """
SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
    || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
    || coalesce(' collate ' || nullif(l.collname, 'default'), '')
    || CASE a.attidentity WHEN '' THEN '' ELSE ' identity ' || a.attidentity::text END
    || CASE a.attgenerated WHEN '' THEN '' ELSE ' generated ' || a.attgenerated::text END
    || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'constraint', c.relname, k.conname, pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE k.connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
"""
OBJECTS = """
SELECT 'relation', relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT 'function', proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger', tgname FROM pg_trigger WHERE NOT tgisinternal
"""


def test_the_tables_are_what_the_migrations_make(database_url: str, blank_database_url: str) -> None:
    """Tables created from `storage.tables` equal the migrated ones to the last CHECK and index condition."""
    in_engine(blank_database_url, metadata.create_all)
    migrated = {row for row in rows(database_url, CATALOGS) if row[1] != "alembic_version"}
    assert rows(blank_database_url, CATALOGS) == migrated
    assert {"column", "constraint", "index"} == {row[0] for row in migrated}


def test_alembic_would_change_nothing(database_url: str) -> None:
    """Autogenerate finds no difference, so the next migration it drafts has only what is new."""

    def compare(connection: Connection) -> Any:
        options = {"compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    assert [] == in_engine(database_url, compare)


def test_the_printed_sql_makes_the_same_database(database_url: str, blank_database_url: str) -> None:
    """`--sql` prints a script that an administrator can run instead: tables, views, functions, triggers, revision."""
    script = inventory("migrate", "--sql").stdout
    run_sql(blank_database_url, script)
    assert rows(database_url, CATALOGS) == rows(blank_database_url, CATALOGS)
    assert rows(database_url, OBJECTS) == rows(blank_database_url, OBJECTS)
    assert migrate.newest_revision() == revision(blank_database_url)


def test_a_downgrade_leaves_nothing(blank_database_url: str) -> None:
    """Down and up again is as good as new."""
    migrate.upgrade(blank_database_url)
    made = rows(blank_database_url, OBJECTS)
    command.downgrade(alembic_config(blank_database_url), "base")
    assert {("relation", "alembic_version"), ("relation", "alembic_version_pkc")} == rows(blank_database_url, OBJECTS)
    migrate.upgrade(blank_database_url)
    assert made == rows(blank_database_url, OBJECTS)


async def test_two_migrations_at_once_take_turns(blank_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rolling deployment may migrate from several places."""
    monkeypatch.setenv("INVENTORY_DATABASE_URL", blank_database_url)
    run = runner()
    results = await asyncio.gather(*(run("migrate") for _ in range(3)))
    assert [(0, "")] * 3 == [(result.exit_code, result.stderr) for result in results]


# --- the command --------------------------------------------------------------------------------


def test_the_command_says_what_it_did(blank_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run migrates, the second has nothing to do."""
    monkeypatch.setenv("INVENTORY_DATABASE_URL", blank_database_url)
    newest = migrate.newest_revision()
    assert f"migrated the database from nothing to revision {newest}\n" == inventory("migrate").stdout
    assert f"the database is at revision {newest} already: nothing to do\n" == inventory("migrate").stdout


def test_two_hosts_in_the_url_are_tried_in_turn(blank_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby that is away does not keep `migrate`, `stock` and `audit` from the primary."""
    two = re.sub(r"@([^/]+)/", r"@127.0.0.1:1,\1/", blank_database_url)
    monkeypatch.setenv("INVENTORY_DATABASE_URL", two)
    for arguments in (("migrate",), ("stock", "show"), ("audit",), ("dlq", "list")):
        assert 0 == inventory(*arguments).exit_code, arguments
    assert migrate.newest_revision() == revision(blank_database_url)


def test_a_server_that_is_away_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing listens is a matter for the operator."""
    monkeypatch.setenv("INVENTORY_DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/none")
    failure = inventory("migrate").exception
    assert isinstance(failure, OperatorError)
    assert re.fullmatch(
        r"PostgreSQL at postgresql://u:\*\*\*@127.0.0.1:1/none cannot be used: .*; check .*", str(failure)
    )


def test_a_role_that_may_not_create_tables_is_one_line(
    blank_database_url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What PostgreSQL refuses is said in its words, without a traceback."""
    database = blank_database_url.rpartition("/")[2]
    postgres.sql("DROP ROLE IF EXISTS onlooker; CREATE ROLE onlooker LOGIN PASSWORD 'x'")
    url = re.sub(r"//[^@]+@", "//onlooker:x@", blank_database_url)
    monkeypatch.setenv("INVENTORY_DATABASE_URL", url)
    failure = inventory("migrate").exception
    postgres.sql("DROP OWNED BY onlooker", database=database)
    assert isinstance(failure, OperatorError)
    assert "permission denied for schema public" in str(failure)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP TABLE alembic_version", "no inventory tables: run `inventory migrate` first"),
        ("UPDATE alembic_version SET version_num = '9999'", "9999, which this program does not know"),
    ],
)
async def test_other_commands_want_the_newest_tables(database_url: str, statement: str, words: str) -> None:
    """A database of another version is refused with what to do about it."""
    connection = await connect(database_url)
    await require_migrated(connection)
    await connection.execute(statement)
    with pytest.raises(OperatorError, match=re.escape(words)):
        await require_migrated(connection)
    await connection.close()


async def test_an_older_database_is_told_to_migrate(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision that the program knows but has grown past needs `inventory migrate`."""
    connection = await connect(database_url)
    monkeypatch.setattr("storage.migrate.newest_revision", lambda: "9999")
    with pytest.raises(OperatorError, match="this program needs 9999: run `inventory migrate` first"):
        await require_migrated(connection)
    await connection.close()


def test_a_newer_database_is_left_alone(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`inventory migrate` of an old program does not touch what a newer one made."""
    monkeypatch.setenv("INVENTORY_DATABASE_URL", database_url)
    run_sql(database_url, "UPDATE alembic_version SET version_num = '9999'")
    failure = inventory("migrate").exception
    assert isinstance(failure, OperatorError)
    assert ("does not know" in str(failure), "9999") == (True, revision(database_url))


def inventory(*arguments: str) -> Result:
    """Run the command line."""
    return CliRunner().invoke(app, arguments)


def alembic_config(url: str) -> Config:
    """Return what alembic needs to run our scripts by hand."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    config.set_main_option("sqlalchemy.url", driver_url(url))
    return config


def in_engine(url: str, work: Callable[[Connection], Any]) -> Any:
    """Run `work` on a SQLAlchemy connection, and commit."""

    async def run() -> Any:
        engine = create_async_engine(driver_url(url), poolclass=NullPool)
        async with engine.begin() as connection:
            result = await connection.run_sync(work)
        await engine.dispose()
        return result

    return asyncio.run(run())


def rows(url: str, query: str) -> set[tuple[Any, ...]]:
    """Return what a query finds."""

    async def fetch() -> set[tuple[Any, ...]]:
        connection = await connect(url)
        found = {tuple(row) for row in await connection.fetch(query)}
        await connection.close()
        return found

    return asyncio.run(fetch())


def run_sql(url: str, script: str) -> None:
    """Run a script of statements."""

    async def run() -> None:
        connection = await connect(url)
        await connection.execute(script)
        await connection.close()

    asyncio.run(run())


def revision(url: str) -> str | None:
    """Return the database's revision."""

    async def ask() -> str | None:
        connection = await connect(url)
        found = await migrate.current_revision(connection)
        await connection.close()
        return found

    return asyncio.run(ask())
