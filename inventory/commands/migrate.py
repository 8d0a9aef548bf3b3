# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory migrate`: bring the database to the tables that this version needs."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from inventory.settings import Settings


def migrate(
    *,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL for an empty database instead; no server is asked.")
    ] = False,
) -> None:
    """Create the tables, or bring them to this version.

    Running it again changes nothing, and two at once take turns. `inventory run` refuses to start on a database that
    was not migrated.
    """
    from inventory.console import print_line
    from inventory.settings import load_settings
    from storage.migrate import newest_revision, upgrade_sql

    if sql:
        print_line(upgrade_sql().rstrip())
        return
    settings = load_settings()
    before = _current(settings)
    if before == newest_revision():
        print_line(f"the database is at revision {before} already: nothing to do")
        return
    _upgrade(settings)
    print_line(f"migrated the database from {'nothing' if before is None else before} to revision {newest_revision()}")


def _current(settings: "Settings") -> str | None:
    """Ask for the database's revision; raises OperatorError for one that only a newer program knows."""
    import asyncio

    from inventory.database import connection, require_known
    from storage.migrate import current_revision

    async def ask() -> str | None:
        async with connection(settings) as opened:
            found = await current_revision(opened)
        require_known(found)
        return found

    return asyncio.run(ask())


def _upgrade(settings: "Settings") -> None:
    import asyncpg
    from sqlalchemy.exc import SQLAlchemyError

    from inventory.database import unreachable
    from storage.migrate import upgrade

    try:
        upgrade(settings.database_url)
    except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        # SQLAlchemy wraps the driver's error, and its own words are long.
        raise unreachable(settings, getattr(error, "orig", None) or error) from error
