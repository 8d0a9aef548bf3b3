"""Counts what work costs the database: round trips and rows written. Counts, not seconds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from storage.database import Pool

_WRITTEN = """
SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables
WHERE n_tup_ins + n_tup_upd + n_tup_del > 0
"""

# What asyncpg wants to know of a type that a connection has not met.
_ASKED_BY_THE_DRIVER = ("SELECT current_setting", "SELECT set_config", "WITH RECURSIVE typeinfo")

Written = dict[str, tuple[int, int, int]]


@asynccontextmanager
async def counted(pool: Pool) -> AsyncIterator[list[str]]:
    """Collect the statements that the pool's connections run in the block; a COPY counts as one."""
    statements: list[str] = []
    holders = [holder for holder in pool._holders if holder._con is not None]  # noqa: SLF001 - asyncpg names them nowhere else

    def note(entry: Any) -> None:
        statement = " ".join(entry.query.split())
        if not statement.startswith(_ASKED_BY_THE_DRIVER):
            statements.append(statement)

    for holder in holders:
        holder._con.add_query_logger(note)  # noqa: SLF001 - as above
    original = asyncpg.Connection.copy_records_to_table

    async def copy(self: Any, table: str, **options: Any) -> Any:
        statements.append(f"COPY {table}")
        return await original(self, table, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncpg.Connection, "copy_records_to_table", copy)
        yield statements
    for holder in holders:
        if holder._con is not None:  # noqa: SLF001 - as above
            holder._con.remove_query_logger(note)  # noqa: SLF001 - as above
    assert any("FOR NO KEY UPDATE" in statement for statement in statements), "the logger saw nothing"


async def rows_written(pool: Pool) -> Written:
    """Return the rows inserted, updated and deleted in each table since the database was made."""
    for holder in pool._holders:  # noqa: SLF001 - as above
        if holder._con is not None:  # noqa: SLF001 - as above
            await holder._con.execute("SELECT pg_stat_force_next_flush()")  # noqa: SLF001 - as above
    return {row[0]: tuple(row[1:]) for row in await pool.fetch(_WRITTEN)}
