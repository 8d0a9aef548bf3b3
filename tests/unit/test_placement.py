"""Where a partition is read from, as the database, the group and Kafka's log have it."""

import pytest

from workers.consuming.placement import LogEnds, Start, start_of


@pytest.mark.parametrize(
    ("stored", "committed", "log", "expected"),
    [
        # The database and the group agree, or one of them is behind: the lower one is right.
        (50, 50, LogEnds(0, 80), Start(50)),
        (40, 50, LogEnds(0, 80), Start(40)),
        (50, 40, LogEnds(0, 80), Start(40)),
        (50, 0, LogEnds(0, 80), Start(0)),
        (50, None, LogEnds(0, 80), Start(50)),
        (80, 80, LogEnds(0, 80), Start(80)),
        # Nothing was read into the database: from the beginning, whatever the group says.
        (None, None, LogEnds(0, 80), Start(0)),
        (None, 50, LogEnds(0, 80), Start(0)),
        # Kafka had deleted records before this program came; they are no loss of ours.
        (None, None, LogEnds(30, 80), Start(30)),
        # Kafka deleted what the database has not read.
        (20, 50, LogEnds(30, 80), Start(30, (20, 30))),
        (20, None, LogEnds(30, 80), Start(30, (20, 30))),
        (None, 50, LogEnds(30, 80), Start(30, (0, 30))),
        (20, 50, LogEnds(80, 80), Start(80, (20, 80))),
        # Kafka deleted what the database has: nothing is lost, even where an operator wanted it again.
        (50, 20, LogEnds(30, 80), Start(30)),
        # The topic was deleted and created again.
        (50, 50, LogEnds(0, 10), Start(0, recreated=True)),
        (50, None, LogEnds(3, 10), Start(3, recreated=True)),
        (1, None, LogEnds(0, 0), Start(0, recreated=True)),
    ],
)
def test_the_database_is_the_authority(
    stored: int | None, committed: int | None, log: LogEnds, expected: Start
) -> None:
    """The lower of both positions, gaps named, and a new topic from its beginning."""
    assert expected == start_of(stored, committed, log)
