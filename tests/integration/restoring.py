"""Restoring a database: it is copied, and later replaced by its copy, as a backup or a promoted standby would."""

import asyncio
from urllib.parse import urlsplit

from dev.servers.postgres import PostgresServer

ATTEMPTS = 200


class Backup:
    """A copy of a database; sessions of the original are ended while the copy is made, and when it is restored."""

    def __init__(self, server: PostgresServer, database_url: str) -> None:
        self._server = server
        self._name = urlsplit(database_url).path.lstrip("/")
        self._copy = f"{self._name}_copy"

    async def make(self) -> None:
        """Copy the database as it is now."""
        await self._without_sessions(f"CREATE DATABASE {self._copy} TEMPLATE {self._name}")

    async def restore(self) -> None:
        """Replace the database by the copy; what was committed in between is gone."""
        self._sql(f"ALTER DATABASE {self._copy} ALLOW_CONNECTIONS false")
        # One transaction: at no moment does the name lead nowhere.
        await self._without_sessions(
            f"ALTER DATABASE {self._name} RENAME TO {self._name}_lost; "
            f"ALTER DATABASE {self._copy} RENAME TO {self._name}"
        )
        self._sql(f"DROP DATABASE {self._name}_lost")

    async def _without_sessions(self, statement: str) -> None:
        self._sql(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false")
        sessions = f"FROM pg_stat_activity WHERE datname = '{self._name}'"
        try:
            for _ in range(ATTEMPTS):
                if "0" == self._sql(f"SELECT count(pg_terminate_backend(pid)) {sessions}").strip():
                    break
                await asyncio.sleep(0.05)
            await asyncio.to_thread(self._sql, statement)
        finally:
            self._sql(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true")

    def _sql(self, statement: str) -> str:
        return self._server.sql(statement)
