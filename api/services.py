"""What the routes work with, and how they reach it; built by the composition root, one for each process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, Request

from api.auth import Principal, Role
from api.front import Visit
from api.gather import Gatherer
from api.pages import Cursors
from api.problems import ProblemError
from api.watching import Watchers
from domain.model import Policy
from engine.reading import StockReader
from engine.tasks import BatchResult
from storage.database import Connection, Pool
from storage.errors import is_unavailable


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a cart may hold stock, how long a request waits for the database, and how long a stream may last."""

    cart_ttl: timedelta
    max_cart_ttl: timedelta
    wait_seconds: float
    stream_seconds: float


@dataclass(frozen=True, slots=True)
class Services:
    """The parts behind the routes."""

    pool: Pool
    reader: StockReader
    cursors: Cursors
    limits: Limits
    gatherer: Gatherer
    policy: Policy
    clock: Callable[[], datetime]
    after_commit: Callable[[BatchResult], None]
    watchers: Watchers

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Bound what is read inside; a database that does not answer in time makes it a 503."""
        try:
            async with asyncio.timeout(self.limits.wait_seconds):
                yield
        except Exception as error:
            if not is_unavailable(error):
                raise
            raise ProblemError("database_unavailable", "Please try again in a moment.") from error

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Give a connection for reading, bounded like `waiting`."""
        async with self.waiting(), self.pool.acquire() as connection:
            yield connection


def services_of(request: Request) -> Services:
    """Return the services of the application that serves the request."""
    services: Services = request.app.state.services
    return services


def visit_of(request: Request) -> Visit:
    """Return who is calling, and the request's id and trace."""
    visit: Visit = request.scope["visit"]
    return visit


def exempt_from_duration(request: Request) -> None:
    """Leave the request out of the histogram of durations: how long it takes is up to the client."""
    request.scope["exempt_from_duration"] = True


async def _services(request: Request) -> Services:
    return services_of(request)


async def _anyone(request: Request) -> Principal:
    return _allowed(request, frozenset(Role))


async def _service_or_admin(request: Request) -> Principal:
    return _allowed(request, frozenset((Role.SERVICE, Role.ADMIN)))


async def _admin(request: Request) -> Principal:
    return _allowed(request, frozenset((Role.ADMIN,)))


def _allowed(request: Request, roles: frozenset[Role]) -> Principal:
    principal = visit_of(request).principal
    if not roles & principal.roles:
        raise ProblemError("missing_role", "You may not do this.")
    return principal


# async functions, because FastAPI runs plain ones in a thread.
Anyone = Annotated[Principal, Depends(_anyone)]
ServiceOrAdmin = Annotated[Principal, Depends(_service_or_admin)]
Admin = Annotated[Principal, Depends(_admin)]
Parts = Annotated[Services, Depends(_services)]
