"""Dead letters as people look at them, on a real database."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.dead_letters import build_dead_letter
from storage.database import Connection, connect
from storage.dead_letter_queries import Filter, read_by_prefix, read_groups, read_newest
from storage.dead_letters import DeadLetter, DeadLetterReason, StoredRecord, append_dead_letters

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """A connection to an empty database."""
    opened = await connect(database_url)
    yield opened
    await opened.close()


def dead_letter(
    number: int, topic: str = "order.created", reason: DeadLetterReason = DeadLetterReason.DECODE_ERROR
) -> DeadLetter:
    """Return a dead letter that failed `number` minutes after noon."""
    record = StoredRecord(topic, 0, number, b"k", b"\xff\x00", [("h", None), ("i", b"\xfe")], T0)
    return build_dead_letter(record, reason, "not JSON", T0 + timedelta(minutes=number), event_id=f"e{number}")


async def test_the_newest_come_first_with_the_total_of_all(connection: Connection) -> None:
    """The limit bounds the page and not the total."""
    stored = [dead_letter(number) for number in range(4)]
    await append_dead_letters(connection, stored)
    page = await read_newest(connection, Filter(), 3)
    assert [stored[3].id, stored[2].id, stored[1].id] == [found.id for found in page.dead_letters]
    assert 4 == page.total
    assert (DeadLetterReason.DECODE_ERROR, 3, "e3") == (
        page.dead_letters[0].reason,
        page.dead_letters[0].offset,
        page.dead_letters[0].event_id,
    )


async def test_nothing_is_a_page_too(connection: Connection) -> None:
    """No dead letters, and a total of none."""
    assert ([], 0) == await read_newest(connection, Filter(topic="cart.updated"), 3)


@pytest.mark.parametrize(
    ("matching", "expected"),
    [
        (Filter(), [3, 2, 1, 0]),
        (Filter(topic="cart.updated"), [1]),
        (Filter(reason="conflict"), [2]),
        (Filter(since=T0 + timedelta(minutes=2)), [3, 2]),
        (Filter(fingerprint=dead_letter(1, "cart.updated").fingerprint), [1]),
        (Filter("order.created", "decode_error", None, T0 + timedelta(minutes=1)), [3]),
    ],
)
async def test_each_filter_narrows_page_total_and_groups(
    connection: Connection, matching: Filter, expected: list[int]
) -> None:
    """Every field that is given must match."""
    await append_dead_letters(
        connection,
        [
            dead_letter(0),
            dead_letter(1, "cart.updated"),
            dead_letter(2, reason=DeadLetterReason.CONFLICT),
            dead_letter(3),
        ],
    )
    page = await read_newest(connection, matching, 10)
    assert expected == [found.offset for found in page.dead_letters]
    assert len(expected) == page.total
    assert len(expected) == sum(group.count for group in await read_groups(connection, matching, 10))


async def test_page_and_total_are_of_one_snapshot(connection: Connection, database_url: str) -> None:
    """A dead letter that is stored between the two statements is in neither."""
    await append_dead_letters(connection, [dead_letter(0)])
    other = await connect(database_url)
    fetch = connection.fetch

    class Interrupted:
        """A connection on which another worker gets in between."""

        def __getattr__(self, name: str) -> Any:
            return getattr(connection, name)

        async def fetch(self, *arguments: Any) -> Any:
            rows = await fetch(*arguments)
            await append_dead_letters(other, [dead_letter(1)])
            return rows

    page = await read_newest(Interrupted(), Filter(), 10)
    await other.close()
    assert (1, 1) == (len(page.dead_letters), page.total)
    assert 2 == (await read_newest(connection, Filter(), 10)).total


async def test_groups_have_their_size_span_and_newest(connection: Connection) -> None:
    """The largest group comes first."""
    stored = [dead_letter(0, "cart.updated"), *(dead_letter(number) for number in range(1, 4))]
    await append_dead_letters(connection, stored)
    large, small = await read_groups(connection, Filter(), 10)
    assert (3, T0 + timedelta(minutes=1), T0 + timedelta(minutes=3), stored[3].id) == (
        large.count,
        large.first,
        large.last,
        large.newest,
    )
    assert (1, "cart.updated", stored[0].fingerprint) == (small.count, small.topic, small.fingerprint)
    assert 1 == len(await read_groups(connection, Filter(), 1))


async def test_an_id_or_its_beginning_finds_the_record(connection: Connection) -> None:
    """With every byte of key, value and headers."""
    stored = dead_letter(5)
    await append_dead_letters(connection, [stored, *(dead_letter(number) for number in range(40))])
    (found,) = await read_by_prefix(connection, str(stored.id)[:30], 2)
    assert (stored.id, stored.record, None) == (found.summary.id, found.record, found.stacktrace)
    assert 2 == len(await read_by_prefix(connection, "", 2))
    assert [] == await read_by_prefix(connection, "zz", 2)
