"""How a command reaches PostgreSQL: one connection, and one clear line when there is none."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from inventory.errors import OperatorError
from inventory.settings import Settings, mask_url
from storage.database import Connection, connect

CLOSE_TIMEOUT_SECONDS = 10.0


@asynccontextmanager
async def connection(settings: Settings) -> AsyncIterator[Connection]:
    """Give one asyncpg connection; raises OperatorError where the server or our tables are not there."""
    try:
        connected = await connect(settings.database_url)
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise unreachable(settings, error) from error
    try:
        yield connected
    except asyncpg.UndefinedTableError as error:
        raise not_migrated(settings) from error
    except (asyncpg.PostgresConnectionError, ConnectionError) as error:
        raise unreachable(settings, error) from error
    finally:
        try:
            await connected.close(timeout=CLOSE_TIMEOUT_SECONDS)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connected.terminate()


def unreachable(settings: Settings, error: BaseException) -> OperatorError:
    """Return the one line that a person needs when PostgreSQL does not answer or refuses us."""
    detail = str(error).splitlines()[0] if str(error) else type(error).__name__
    return OperatorError(
        f"PostgreSQL at {mask_url(settings.database_url)} cannot be used: {detail}; "
        "check that it runs and INVENTORY_DATABASE_URL"
    )


def not_migrated(settings: Settings) -> OperatorError:
    """Return the one line that a person needs when our tables are not in the database."""
    return OperatorError(
        f"the database {mask_url(settings.database_url)} has no inventory tables: run `inventory migrate` first"
    )


async def require_migrated(opened: Connection) -> None:
    """Raise OperatorError unless the database has the tables of this version of the program."""
    from storage import migrate  # noqa: PLC0415 - alembic is slow to import, and most commands never need it

    found = await migrate.current_revision(opened)
    if found is None:
        raise OperatorError("the database has no inventory tables: run `inventory migrate` first")
    if found not in migrate.known_revisions():
        raise OperatorError(
            f"the database is at revision {found}, which this program does not know: a newer one migrated it; "
            "install that version"
        )
    if found != migrate.newest_revision():
        raise OperatorError(
            f"the database is at revision {found} and this program needs {migrate.newest_revision()}: "
            "run `inventory migrate` first"
        )
