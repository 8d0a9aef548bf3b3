"""`inventory outbox`: unpublishable events are listed, sent again, or discarded with a reason."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest

from storage import outbox
from storage.database import connect
from tests.integration.command_line import Run, runner

IDS = [str(UUID(int=number << 100)) for number in (1, 2, 3)]


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line on this test's database."""
    monkeypatch.setenv("INVENTORY_DATABASE_URL", database_url)
    return runner()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with three events: two unpublishable, one pending."""
    opened = await connect(database_url)
    for id_ in IDS:
        await opened.execute(
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, occurred_at, shard)"
            " VALUES ($1, 'inventory.reservations', 'o1', 'reserved', '{}', now(), 3)",
            id_,
        )
    for position in await opened.fetch("SELECT position FROM outbox WHERE id = ANY($1)", IDS[:2]):
        await outbox.mark_unpublishable(opened, position[0], "MessageSizeTooLargeError")
    yield opened
    await opened.close()


async def test_unpublishable_events_are_listed_with_their_errors(connection: asyncpg.Connection, run: Run) -> None:
    """Pending events are not among them; a script gets every field."""
    assert connection is not None
    code, output, _ = await run("outbox", "list", "--json")
    assert (0, IDS[:2]) == (code, [event["id"] for event in json.loads(output)])
    event = json.loads(output)[0]
    assert ("inventory.reservations", "o1", 2, "MessageSizeTooLargeError") == (
        event["topic"],
        event["key"],
        event["size_bytes"],
        event["publish_error"],
    )
    assert "MessageSizeTooLargeError" in (await run("outbox", "list")).stdout


async def test_a_retried_event_is_pending_behind_all_others(connection: asyncpg.Connection, run: Run) -> None:
    """A relay that has read past it finds it again; the id and the payload stay."""
    before = await outbox.last_position(connection)
    assert (0, {"retried": 1}) == _answer(await run("outbox", "retry", IDS[0], "--yes", "--json"))
    pending = await outbox.pending(connection, [3], before + 1, 10, now=datetime.now(UTC))
    assert [IDS[0]] == [event.id for event in pending]
    assert (1, {"retried": 0}) == _answer(await run("outbox", "retry", IDS[0], "--yes", "--json"))


async def test_a_discarded_event_keeps_who_and_why(connection: asyncpg.Connection, run: Run) -> None:
    """It is neither listed nor published again, and its row says who gave it up."""
    answer = await run("outbox", "discard", "--all", "--yes", "--reason", "test shop", "--operator", "ann", "--json")
    assert (0, {"discarded": 2}) == _answer(answer)
    assert "no unpublishable events\n" == (await run("outbox", "list")).stdout
    notes = await connection.fetch("SELECT DISTINCT publish_error FROM outbox WHERE discarded_at IS NOT NULL")
    assert ["MessageSizeTooLargeError; discarded by ann: test shop"] == [row[0] for row in notes]
    assert [IDS[2]] == [event.id for event in await outbox.pending(connection, [3], 0, 10, now=datetime.now(UTC))]


async def test_nothing_happens_without_a_confirmation(connection: asyncpg.Connection, run: Run) -> None:
    """Without --yes and without an answer both commands stop, and all stays as it was."""
    for arguments in (("retry", "--all"), ("discard", "--all", "--reason", "x")):
        assert 1 == (await run("outbox", *arguments)).exit_code
    assert 2 == await connection.fetchval("SELECT count(*) FROM outbox WHERE publish_error IS NOT NULL")
    assert 0 == await connection.fetchval("SELECT count(*) FROM outbox WHERE discarded_at IS NOT NULL")


@pytest.mark.parametrize("arguments", [("retry",), ("retry", "x"), ("retry", IDS[0], "--all"), ("discard", "--all")])
async def test_wrong_usage_is_refused(run: Run, arguments: tuple[str, ...]) -> None:
    """Neither ids nor --all, both, no UUID, or no reason: exit code 2."""
    assert 2 == (await run("outbox", *arguments, "--yes")).exit_code


def _answer(result: tuple[int, str, str]) -> tuple[int, object]:
    return result[0], json.loads(result[1])
