"""Health: what is worth a restart, what only keeps work away, and how the database is asked."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from aiokafka import TopicPartition

from inventory import health
from inventory.health import ANSWER_SECONDS, DatabaseProbe, Health, why_not_alive, why_not_consuming
from storage.errors import in_words
from workers.consuming.status import ConsumerStatus

WELL = ConsumerStatus(
    assigned=frozenset({TopicPartition("order.created", 0)}),
    joining_seconds=None,
    joining_limit_seconds=300.0,
    paused_because=None,
    waits_because=None,
    poll_age=1.0,
    progress_age=1.0,
    lag_records=0,
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"assigned": frozenset()}, None),
        ({"joining_seconds": 300.0}, None),
        ({"joining_seconds": 301.0}, "the consumer group has not assigned partitions for 301 s"),
        ({"poll_age": None}, None),
        ({"poll_age": 60.0}, None),
        ({"poll_age": 61.0}, "Kafka has not answered a fetch for 61 s"),
        ({"progress_age": 121.0}, None),
        ({"progress_age": 120.0, "lag_records": 5}, None),
        ({"progress_age": 121.0, "lag_records": 5}, "no batch was applied for 121 s, with a lag of 5 records"),
    ],
)
def test_no_progress_is_worth_a_restart(changes: dict[str, Any], reason: str | None) -> None:
    """Just at its limit a worker is alive, beyond it the reason is named."""
    assert reason == why_not_alive(WELL._replace(**changes))


@pytest.mark.parametrize("excuse", [{"waits_because": "a lock"}, {"paused_because": "a flood"}])
def test_a_worker_that_waits_is_alive(excuse: dict[str, Any]) -> None:
    """A restart brings back neither the database nor good records."""
    stuck = WELL._replace(joining_seconds=999.0, poll_age=999.0, progress_age=999.0, lag_records=5)
    assert why_not_alive(stuck) is not None
    assert why_not_alive(stuck._replace(**excuse)) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"paused_because": "a flood"}, "paused: a flood"),
        ({"assigned": frozenset()}, "no partitions assigned"),
        ({"waits_because": "a lock"}, "a batch waits for the database: a lock"),
    ],
)
def test_a_worker_without_work_is_not_ready(changes: dict[str, Any], reason: str | None) -> None:
    """Readiness needs partitions and no pause; a batch that waits for the database is not work."""
    assert reason == why_not_consuming(WELL._replace(**changes))


class Server:
    """A database and its connections; `fail` is raised by the next query."""

    def __init__(self) -> None:
        self.opened = 0
        self.queries = 0
        self.terminated = 0
        self.closed = 0
        self.now = 0.0
        self.fail: BaseException | None = None
        self.refuse: BaseException | None = None
        self.hangs = False
        self.asked = asyncio.Event()

    async def open(self) -> "Server":
        """Open a connection."""
        if self.refuse is not None:
            raise self.refuse
        self.opened += 1
        return self

    async def fetchval(self, _query: str) -> int:
        """Answer, after other tasks had a turn."""
        self.queries += 1
        self.asked.set()
        await asyncio.sleep(60 if self.hangs else 0.001)
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        return 1

    def terminate(self) -> None:
        """Drop the connection."""
        self.terminated += 1

    async def close(self, *, timeout: float) -> None:  # noqa: ASYNC109 - asyncpg's
        """Close the connection."""
        assert timeout > 0
        self.closed += 1


@pytest.fixture
def server() -> Server:
    """A database that answers."""
    return Server()


@pytest.fixture
def probe(server: Server) -> DatabaseProbe:
    """A probe that has not been used."""
    return DatabaseProbe(server.open, lambda: server.now)


async def test_concurrent_requests_share_one_query_a_second(server: Server, probe: DatabaseProbe) -> None:
    """500 requests at once cost one query on one connection, and the next second one more."""
    for second in range(3):
        server.now = second * ANSWER_SECONDS
        assert {None} == set(await asyncio.gather(*(probe.why_unavailable() for _ in range(500))))
        server.now += ANSWER_SECONDS * 0.9
        assert await probe.why_unavailable() is None
        assert second + 1 == server.queries
    assert (1, 0) == (server.opened, server.terminated)


FAILURES = [
    # What asyncpg raises when the server ended the connection and the query comes before the event loop has noticed.
    asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
    asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
    asyncpg.InterfaceError("cannot perform operation: connection is closed"),
    asyncpg.ObjectNotInPrerequisiteStateError("database is not currently accepting connections"),
    asyncpg.AdminShutdownError("terminating connection due to administrator command"),
    ConnectionResetError("reset"),
    TimeoutError(),
    EOFError("not an error that anybody expects"),
    AttributeError("'NoneType' object has no attribute 'send'"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("where", ["fail", "refuse"])
async def test_whatever_the_database_raises_is_503(server: Server, failure: Exception, where: str) -> None:
    """Readiness answers 503 with the reason for any exception; its next answer comes on a new connection."""
    checked = Health(DatabaseProbe(server.open, lambda: server.now), None)
    setattr(server, where, failure)
    status, text = await _get(checked.readyz)
    assert (503, f"the database does not answer: {in_words(failure)}\n") == (status, text)
    assert (503, text) == await _get(checked.readyz)  # for the rest of the second
    setattr(server, where, None)
    server.now += ANSWER_SECONDS
    assert (200, "ok\n") == await _get(checked.readyz)
    opened = 2 if where == "fail" else 1
    assert (opened, opened - 1) == (server.opened, server.terminated)
    await checked.close()
    assert 1 == server.closed


async def test_a_database_that_hangs_is_503_within_the_limit(
    server: Server, probe: DatabaseProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is dropped: the late answer must not be taken for that of the next query."""
    monkeypatch.setattr(health, "DATABASE_LIMIT_SECONDS", 0.02)
    server.hangs = True
    async with asyncio.timeout(10):
        assert "the database does not answer: TimeoutError" == await probe.why_unavailable()
    assert 1 == server.terminated


async def test_a_request_that_is_cancelled_leaves_no_half_used_connection(server: Server, probe: DatabaseProbe) -> None:
    """The next request asks again, on a new connection."""
    server.hangs = True
    asking = asyncio.create_task(probe.why_unavailable())
    await server.asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    server.hangs = False
    assert await probe.why_unavailable() is None
    assert (2, 1) == (server.opened, server.terminated)


async def _get(application: Callable[..., Any]) -> tuple[int, str]:
    """Call an ASGI application as a server would; return the status and the body."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}, None, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()
