"""A watch keeps of each product the newest level that its request has not taken."""

import asyncio

import pytest

from api.watching import End, Watch, WatchEndedError
from domain.model import StockStatus
from storage.stock import StockLevel


def _level(product_id: str, version: int) -> StockLevel:
    return StockLevel(product_id, version, 0, version, 0, StockStatus.OK, version)


async def _versions(watch: Watch) -> dict[str, int]:
    return {level.product_id: level.version for level in await asyncio.wait_for(watch.changes(), 10)}


async def test_changes_are_merged_until_they_are_taken() -> None:
    """Of each product the newest level is kept, and only once."""
    watch = Watch(["a", "b"])
    for product_id, version in (("a", 1), ("b", 1), ("a", 3), ("a", 2)):
        watch.offer(_level(product_id, version))
    assert {"a": 3, "b": 1} == await _versions(watch)
    watch.offer(_level("a", 4))
    assert {"a": 4} == await _versions(watch)


async def test_a_level_that_the_request_has_is_no_change() -> None:
    """Neither what it has read itself nor what is older is offered again, before or after."""
    watch = Watch(["a", "b"])
    watch.offer(_level("a", 4))
    watch.know(_level("a", 5))
    watch.offer(_level("a", 5))
    watch.offer(_level("b", 1))
    watch.know(_level("b", 1))
    watch.offer(_level("b", 2))
    assert {"b": 2} == await _versions(watch)


async def test_what_was_read_does_not_hide_what_is_newer() -> None:
    """The loop may have offered a newer level before the request has read its own."""
    watch = Watch(["a"])
    watch.offer(_level("a", 5))
    watch.know(_level("a", 4))
    assert {"a": 5} == await _versions(watch)


async def test_an_ended_watch_gives_what_it_has_and_then_the_reason() -> None:
    """The first reason counts."""
    watch = Watch(["a"])
    watch.offer(_level("a", 1))
    watch.end(End.CLOSING)
    watch.end(End.DATABASE_UNAVAILABLE)
    assert {"a": 1} == await _versions(watch)
    with pytest.raises(WatchEndedError, match="closing"):
        await _versions(watch)
