"""Imports of files: what identifies each, and how many of its rows have been applied."""

from datetime import datetime
from typing import NamedTuple

from storage.database import Connection

_COLUMNS = "import_id, content_digest, row_count, rows_applied, operator, started_at, finished_at"
_FIND = f"SELECT {_COLUMNS} FROM imports WHERE import_id = $1"  # noqa: S608 - constants
_LATEST = f"""
SELECT {_COLUMNS} FROM imports WHERE content_digest = $1 ORDER BY started_at DESC, import_id DESC LIMIT 1
"""  # noqa: S608 - constants
_BEGIN = """
INSERT INTO imports (import_id, content_digest, row_count, rows_applied, operator)
VALUES ($1, $2, $3, 0, $4) ON CONFLICT (import_id) DO NOTHING
"""
_SAVE = "UPDATE imports SET rows_applied = greatest(rows_applied, $2) WHERE import_id = $1"
_FINISH = "UPDATE imports SET finished_at = now() WHERE import_id = $1 AND finished_at IS NULL"


class ImportRecord(NamedTuple):
    """An import; `content_digest` is that of its file, `finished_at` None until every row was applied or refused."""

    import_id: str
    content_digest: str
    row_count: int
    rows_applied: int
    operator: str
    started_at: datetime
    finished_at: datetime | None


class ImportProgress(NamedTuple):
    """How many rows of an import have been applied, counted from the first."""

    import_id: str
    rows_applied: int


async def find(connection: Connection, import_id: str) -> ImportRecord | None:
    """Return an import, or None for an unknown one."""
    row = await connection.fetchrow(_FIND, import_id)
    return None if row is None else ImportRecord(*row)


async def latest_of_content(connection: Connection, content_digest: str) -> ImportRecord | None:
    """Return the latest import of this content, or None."""
    row = await connection.fetchrow(_LATEST, content_digest)
    return None if row is None else ImportRecord(*row)


async def begin(connection: Connection, import_id: str, content_digest: str, row_count: int, operator: str) -> None:
    """Record that an import begins; one that has begun stays as it is."""
    await connection.execute(_BEGIN, import_id, content_digest, row_count, operator)


async def save_progress(connection: Connection, progress: ImportProgress) -> None:
    """Record how far an import is, in the transaction that applies its rows; never goes back."""
    await connection.execute(_SAVE, progress.import_id, progress.rows_applied)


async def finish(connection: Connection, import_id: str) -> None:
    """Record that an import is complete."""
    await connection.execute(_FINISH, import_id)
