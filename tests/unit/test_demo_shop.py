"""The demo's shop is the same for the same seed, and each of its poison records is invalid as its name says."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest

from dev.demo.poison import POISONS
from dev.demo.records import encode
from dev.demo.shop import Publication, opening, script
from schemas.envelope import Event, decode
from schemas.errors import ContractViolation
from schemas.topics import TOPICS_IN

NOW = datetime(2026, 3, 1, 10, 15, 30, 250000, tzinfo=UTC)
# Valid by themselves; invalid only after the events before them.
INVALID_IN_CONTEXT = {"an id used twice", "an order changed afterwards"}


def _decoded(publication: Publication) -> Event:
    record = encode(publication, NOW)
    return decode(record.topic, record.value, record.headers, int(NOW.timestamp() * 1000))


def _shop(seconds: float = 30) -> list[Publication]:
    return [*opening(150), *script(7, seconds, 150)]


def test_a_seed_is_a_shop() -> None:
    """The same seed gives the same publications, another seed different ones."""
    assert list(script(7, 5, 150)) == list(script(7, 5, 150))
    assert list(script(7, 5, 150)) != list(script(8, 5, 150))


def test_publications_come_in_the_order_in_which_they_are_due() -> None:
    """Due times never fall, and none is after the shop has closed."""
    dues = [publication.due for publication in script(7, 30, 150)]
    assert [pair for pair in pairwise(dues) if pair[0] > pair[1]] == []
    assert (min(dues) >= 0, max(dues) <= 30) == (True, True)


@pytest.mark.parametrize("rate", [20, 150, 1000])
def test_the_shop_is_about_as_busy_as_asked(rate: int) -> None:
    """Over a minute, the publications are within a fifth of the rate."""
    assert len(list(script(7, 60, rate))) / 60 == pytest.approx(rate, rel=0.2)


def test_every_topic_and_every_kind_of_poison_is_there() -> None:
    """Half a minute of the shop contains every topic and every kind of poison."""
    shop = _shop()
    assert {publication.topic for publication in shop} == set(TOPICS_IN)
    assert {publication.poison for publication in shop} == {None, *(poison.name for poison in POISONS)}
    assert {publication.kind for publication in shop if publication.age} == {"cart updated"}


def test_other_records_keep_the_contract() -> None:
    """Every other record is an event with the publication's id and key."""
    for publication in _shop():
        if publication.poison is None:
            event = _decoded(publication)
            key = getattr(event.data, TOPICS_IN[publication.topic].key_field)
            assert (event.id, key) == (publication.event_id, publication.key)


def test_an_event_sent_again_is_the_same_event() -> None:
    """A producer's repeat has the id, source and content of the original."""
    shop = _shop()
    first = {publication.event_id: publication for publication in shop if publication.kind != "sent again"}
    again = [publication for publication in shop if publication.kind == "sent again"]
    assert len(again) > 50
    for publication in again:
        one, other = _decoded(first[publication.event_id]), _decoded(publication)
        assert (one.id, one.source, one.digest) == (other.id, other.source, other.digest)


def test_poison_is_invalid() -> None:
    """Each poison record violates its contract, or repeats an id or an order with other content."""
    shop = _shop()
    orders = {publication.event_id: publication for publication in shop if publication.kind == "order created"}
    for publication in shop:
        if publication.poison in INVALID_IN_CONTEXT:
            event = _decoded(publication)
            original = orders[publication.data["order_id"] + "-created"]
            assert event.source == _decoded(original).source
            assert event.data != _decoded(original).data
            assert (event.id == original.event_id) == (publication.poison == "an id used twice")
        elif publication.poison is not None:
            with pytest.raises(ContractViolation):
                _decoded(publication)
