"""Results do not depend on how a stream was cut into batches, in dense collisions of holds that are due when made."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from dev.oracle.settings import Settings as OracleSettings
from dev.oracle.shop import Shop as OracleShop
from domain.model import LatePaymentPolicy, Policy
from engine import working_set
from engine.execute import execute
from engine.tasks import EventTask
from storage.dead_letters import StoredRecord
from tests.unit.domain_cases import NOON, Event, at, cancelled, cart, command, created, paid, product
from tests.unit.memory_database import MemoryDatabase, in_memory

# Of a stream that has been read far past its events, as a backlog is whose watermark was ahead: every hold is due when
# it is made. With the other, about half are.
_LOW_WATERMARKS = (at(60), at(16.5))

_lines = st.dictionaries(st.sampled_from(("p", "p", "q")), st.integers(1, 5), min_size=1, max_size=2)
_names = st.sampled_from(("a", "b", "c", "d"))
_minutes = st.sampled_from((0, 0, 1, 2, 3))


@st.composite
def _events(draw: st.DrawFn) -> Event:
    name, minutes = draw(_names), draw(_minutes)
    match draw(st.sampled_from(("created",) * 5 + ("paid", "paid", "cart", "cart", "cancelled"))):
        case "created":
            return created(draw(_lines), name, draw(st.sampled_from((None, None, name))), minutes)
        case "paid":
            return paid(name, minutes)
        case "cart":
            # Some are as old as orders that are due: 15 minutes older.
            return cart(draw(_lines), minutes - draw(st.sampled_from((0, 15))), None, name)
        case _:
            return cancelled(None, name, "", minutes)


@st.composite
def _collisions(draw: st.DrawFn) -> list[Event]:
    """Orders for one product of which hardly two fit at once, with payments among them.

    A hold that took an expired one's place is due as well, and what ran short runs short again for it.
    """
    names = ("a", "b", "c", "d", "e", "f")
    stream = [created({"p": draw(st.sampled_from((1, 5)))}, name) for name in names]
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True)):
        stream.insert(draw(st.integers(0, len(stream))), paid(name))
    return stream


def _in_the_shop(stream: list[Event]) -> list[Event]:
    unique = list({one["id"]: one for one in reversed(stream)}.values())[::-1]
    return [product("p", 6, 1), product("q", 3, 0), *unique]


_STREAMS = st.lists(_events(), min_size=2, max_size=12).map(_in_the_shop)


def _tasks(stream: list[Event]) -> list[EventTask]:
    record = StoredRecord("t", 0, 0, None, b"", (), NOON)
    return [EventTask(command(one), b"", record, one["topic"]) for one in stream]  # type: ignore[arg-type]


def _apply(stream: list[Event], cuts: set[int], low_watermark: Any, policy: Policy) -> MemoryDatabase:
    database = MemoryDatabase(low_watermark)
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(stream)), len(stream)]

    async def run() -> None:
        for start, end in pairwise(edges):
            await execute(database, _tasks(stream[start:end]), policy, NOON)

    with in_memory():
        asyncio.run(run())
    return database


@pytest.fixture(params=[(1, 2, None), (1_000, 30_000, None)], ids=["one hold at a time", "many holds at a time"])
def loaded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load due holds in short prefixes as well: what is beyond a prefix must not change a result."""
    monkeypatch.setattr(working_set, "DUE_HOLDS_LOADED", request.param)


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("policy", [Policy(late_payment=one) for one in LatePaymentPolicy], ids=list(LatePaymentPolicy))
def test_holds_that_are_due_when_made_end_alike_however_the_stream_is_cut(policy: Policy) -> None:
    """State, ledger, inbox and everything published are the same for one batch, single events and any cut between."""
    _assert_alike(_STREAMS, 60, policy)


@pytest.mark.parametrize("policy", [Policy(late_payment=one) for one in LatePaymentPolicy], ids=list(LatePaymentPolicy))
def test_dense_collisions_of_due_holds_end_alike_however_the_stream_is_cut(policy: Policy) -> None:
    """So dense that the property finds by itself what one product that runs short twice in a batch once changed."""
    _assert_alike(_collisions().map(_in_the_shop), 150, policy)


def _assert_alike(streams: st.SearchStrategy[list[Event]], examples: int, policy: Policy) -> None:
    @settings(max_examples=examples, database=None)
    @given(streams, st.sets(st.integers(1, 13)), st.sampled_from(_LOW_WATERMARKS))
    def alike(stream: list[Event], cuts: set[int], low_watermark: Any) -> None:
        whole = _apply(stream, set(), low_watermark, policy)
        note(f"expired: {any('expired' in row.type for row in whole.outbox)}")
        assert whole.picture() == _apply(stream, set(range(len(stream))), low_watermark, policy).picture()
        assert whole.picture() == _apply(stream, cuts, low_watermark, policy).picture()

    alike()


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("policy", [Policy(late_payment=one) for one in LatePaymentPolicy], ids=list(LatePaymentPolicy))
def test_which_holds_expire_is_what_the_oracle_says(policy: Policy) -> None:
    """Stock, statuses and what is published, in one batch, agree with the model that takes one event at a time."""

    @settings(max_examples=40, database=None)
    @given(_STREAMS, st.sampled_from(_LOW_WATERMARKS))
    def agrees(stream: list[Event], low_watermark: Any) -> None:
        found = _apply(stream, set(), low_watermark, policy)
        model = OracleShop(OracleSettings(late_payment=policy.late_payment.value), suppress_repeats=True)
        verdicts = [model.apply(one, low_watermark) for one in stream]
        assert {name: (one.on_hand, one.reserved) for name, one in model.products.items()} == {
            name: (one.on_hand, one.reserved) for name, one in found.products.items()
        }
        assert {name: one.status for name, one in model.orders.items()} == {
            name: one.status.value for name, one in found.orders.items()
        }
        assert {name: (one.status, one.held) for name, one in model.carts.items()} == {
            name: (one.status.value, one.held) for name, one in found.carts.items()
        }
        # In order: which hold expires first is part of what is promised.
        assert [
            (outcome.kind, outcome.owner[1])
            for verdict in verdicts
            for one in (*verdict.expired, verdict)
            for outcome in one.outcomes
        ] == [(row.type.rpartition(".")[2], row.key) for row in found.outbox if row.topic == "inventory.reservations"]

    agrees()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_due_hold_that_takes_an_expired_ones_place_gives_way_too(size: int) -> None:
    """Six units, all holds due when made: B takes A's place and gives way to D in any batch, so its payment is late."""
    stream = [
        product("p", 6, 0),
        created({"p": 5}, "A"),
        created({"p": 5}, "B"),
        created({"p": 1}, "X"),
        created({"p": 1}, "D"),
        paid("B"),
    ]
    cuts = {2, *range(2, 9, size)}
    found = _apply(stream, cuts, at(60), Policy(late_payment=LatePaymentPolicy.SHORTFALL))
    assert (6, ["expired", "expired", "reserved", "reserved"]) == (
        found.products["p"].on_hand,
        [found.orders[name].status for name in "ABXD"],
    )


@pytest.mark.parametrize("cuts", [set(), {7}], ids=["in one batch", "one by one"])
def test_the_oldest_hold_expires_first_also_on_a_product_that_another_hold_would_relieve(cuts: set[int]) -> None:
    """Of two holds on `p`, the newer one would free `q` as well; the older one is due first and expires first.

    In one batch `p` runs short only once B got what the hold on `r` gave back.
    """
    stream = [
        *(product(name, units, 0) for name, units in (("p", 3), ("q", 1), ("r", 1))),
        created({"r": 1}, "holds r", minutes=-4),
        created({"p": 1}, "older", minutes=-3),
        created({"p": 1, "q": 1}, "newer", minutes=-2),
        created({"r": 1, "p": 1}, "B", minutes=30),
        created({"p": 1, "q": 1}, "C", minutes=30),
    ]
    found = _apply(stream, {6} | cuts, at(20), Policy())
    assert ["expired", "expired", "expired", "reserved", "reserved"] == [
        found.orders[name].status for name in ("holds r", "older", "newer", "B", "C")
    ]
