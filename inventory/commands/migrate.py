# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory migrate`: creates or upgrades the tables."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from inventory.settings import Settings


def migrate(
    *,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL for an empty database instead; connects to no server.")
    ] = False,
) -> None:
    """Create the tables, or upgrade them to this version.

    Running it again changes nothing, and concurrent runs wait for each other. `inventory run` refuses to start on a
    database that is not at this version.
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
    """Return the database's revision; raises OperatorError for one that is newer than this program."""
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
        # SQLAlchemy wraps the driver's error in a long message of its own.
        raise unreachable(settings, getattr(error, "orig", None) or error) from error
