"""The chaos run's journal of what the broker acknowledged."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dev.chaos.generator import MAX_ATTEMPTS, Generator
from dev.chaos.schedule import Publication
from dev.chaos.workload import Workload
from dev.records import ProducedRecord
from dev.servers.process import LOOPBACK

PUBLICATION = Publication("order.created", "k", "e-1", {})
RECORD = ProducedRecord("order.created", b"k", b"{}", ())


class RefusingProducer:
    """Reports every record as failed, and remembers the values that it was given."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self._reports: list[Callable[[], None]] = []

    def produce(self, _topic: str, value: bytes, *_: bytes, on_delivery: Callable[..., None], **_options: Any) -> None:
        """Take a record."""
        self.values.append(value)
        self._reports.append(lambda: on_delivery("no leader", None))

    def flush(self, _seconds: float) -> int:
        """Report what was taken."""
        reports, self._reports = self._reports, []
        for report in reports:
            report()
        return 0


def new_generator() -> Generator:
    """Return a generator that has no broker."""
    return Generator(f"{LOOPBACK}:1", "", Workload(1, 10.0, 12.0))


@pytest.mark.parametrize(("offset", "position"), [(7, ("order.created", 2, 7)), (None, None)])
def test_an_acknowledgement_without_an_offset_does_not_count(
    offset: int | None, position: tuple[str, int, int] | None
) -> None:
    """The broker has the record from an earlier attempt, and does not say where: the run goes on."""
    generator = new_generator()
    message = SimpleNamespace(partition=lambda: 2, offset=lambda: offset)
    generator._delivered(PUBLICATION, RECORD, None, message)  # noqa: SLF001 - librdkafka calls it
    (sent,) = generator.journal
    assert sent.position == position
    assert (sent.acked_at is None) == (position is None)
    assert (sent.error is None) == (position is not None)
    assert generator.ends == ({} if position is None else {position[:2]: 8})


def test_a_record_that_failed_is_published_again_unchanged() -> None:
    """It keeps its bytes, so that an event that did arrive is a duplicate; each attempt is in the journal."""
    generator, producer = new_generator(), RefusingProducer()
    generator._producer = producer  # type: ignore[assignment] # noqa: SLF001 - no broker refuses on request
    asyncio.run(generator.publish([PUBLICATION]))
    assert len(producer.values) == MAX_ATTEMPTS
    assert len(set(producer.values)) == 1
    assert ["no leader"] * MAX_ATTEMPTS == [sent.error for sent in generator.journal]
