"""The chaos run's journal of what the broker acknowledged."""

from types import SimpleNamespace

import pytest

from dev.chaos.generator import Generator
from dev.chaos.schedule import Publication
from dev.chaos.workload import Workload
from dev.servers.process import LOOPBACK


@pytest.mark.parametrize(("offset", "position"), [(7, ("order.created", 2, 7)), (None, None)])
def test_an_acknowledgement_without_an_offset_does_not_count(
    offset: int | None, position: tuple[str, int, int] | None
) -> None:
    """The broker has the record from an earlier attempt, and does not say where: the run goes on."""
    generator = Generator(f"{LOOPBACK}:1", "", Workload(1, 10.0, 12.0))
    publication = Publication("order.created", "k", "e-1", {})
    message = SimpleNamespace(partition=lambda: 2, offset=lambda: offset)
    generator._delivered(publication, None, message)  # noqa: SLF001 - librdkafka calls it
    (sent,) = generator.journal
    assert sent.position == position
    assert (sent.acked_at is None) == (position is None)
    assert generator.ends == ({} if position is None else {position[:2]: 8})
