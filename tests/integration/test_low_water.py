"""The relay's low-water position never passes a row that can still appear."""

import pytest

from storage.database import connect
from workers.publishing import low_water
from workers.publishing.low_water import LowWater

_INSERT = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, occurred_at, shard, created_at)
VALUES (gen_random_uuid(), 't', 'k', 't', '{}', now(), 0, now()) RETURNING position
"""


async def test_an_empty_outbox_has_nothing_to_pass(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a relay has polled an empty outbox, it reads the very first row."""
    monkeypatch.setattr(low_water, "CHECK_SECONDS", 0.0)
    connection = await connect(database_url)
    try:
        water = LowWater()
        for _ in range(4):
            water.raise_to(await water.complete_position(connection))
        first = await connection.fetchval(_INSERT)
        assert water.position <= first
        for _ in range(4):
            water.raise_to(await water.complete_position(connection))
        assert water.position == first + 1
    finally:
        await connection.close()
