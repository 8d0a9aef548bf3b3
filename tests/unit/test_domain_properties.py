"""What must hold in every stream: any permutation, repetition or cut of it ends alike, and the books balance."""

from collections import Counter
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dev.oracle.stock import is_edge
from domain.model import Decision, Disposition, EntryType, Policy, State, StockAlert
from tests.unit.domain_cases import Books, Event, cancelled, created, event, paid, product, refunded
from tests.unit.strategies import PRODUCTS, carts, items, known_lines, minutes, orders


@st.composite
def stories(draw: st.DrawFn) -> list[Event]:
    """Draw one order's events that are consistent: nothing is cancelled or refunded that was not ordered."""
    ordered = draw(known_lines)
    facts = [created(ordered)]
    cancellable, refundable = dict(ordered), dict(ordered)
    for number in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(("cancelled", "refunded", "returned")))
        named = {"cancelled": [cancellable], "refunded": [refundable]}.get(kind, [cancellable, refundable])
        part = {p: n for p in ordered if (n := draw(st.integers(0, min(left[p] for left in named))))}
        if not part:
            continue
        for left in named:
            for product_id, quantity in part.items():
                left[product_id] -= quantity
        if kind == "cancelled":
            facts.append(cancelled(part, name=str(number)))
        else:
            restock = draw(st.sampled_from((None, True, False)))
            facts.append(refunded(part, f"r{number}", restock=restock, returned=kind == "returned"))
    if draw(st.integers(0, 3)):
        facts.append(paid())
    if draw(st.booleans()):
        facts.append(cancelled())
    return facts


def _end(facts: list[Event], policy: Policy | None = None) -> dict[str, tuple[int, int]]:
    books = Books(*(product(product_id, 50) for product_id in PRODUCTS), *facts, policy=policy)
    books.check()
    return {product_id: books.stock(product_id) for product_id in PRODUCTS}


@settings(max_examples=400)
@given(data=st.data(), story=stories())
def test_any_permutation_and_duplication_of_an_orders_events_ends_in_the_same_stock(
    data: st.DataObject, story: list[Event]
) -> None:
    """However an order's events are shuffled and repeated, the stock at the end is the same."""
    repeated = [*story, *data.draw(st.lists(st.sampled_from(story), max_size=4))]
    assert _end(story) == _end(data.draw(st.permutations(repeated)))


@settings(max_examples=200)
@given(data=st.data(), story=stories())
def test_the_stock_at_the_end_is_what_the_facts_add_up_to(data: st.DataObject, story: list[Event]) -> None:
    """Gone at the end is what was paid and not given up, or not restocked, counted from the facts alone."""
    units: dict[str, Counter[str]] = {
        name: Counter() for name in ("order.created", "order.cancelled", "refunded", "returned", "not_restocked")
    }
    topics = [fact["topic"] for fact in story]
    is_paid = "payment.succeeded" in topics
    is_cancelled = any(fact["topic"] == "order.cancelled" and "items" not in fact["data"] for fact in story)
    for fact in story:
        for item in fact["data"].get("items", ()):
            product_id, quantity = item["product_id"], item["quantity"]
            if fact["topic"] == "payment.refunded":
                units["returned" if fact["data"]["returned"] else "refunded"][product_id] += quantity
                units["not_restocked"][product_id] += 0 if fact["data"].get("restock", True) else quantity
            else:
                units[fact["topic"]][product_id] += quantity
    expected = {}
    for product_id in PRODUCTS:
        ordered, called_off, repaid, returned, kept_off = (units[name][product_id] for name in units)
        wanted = 0 if is_cancelled else ordered - called_off
        left = 0 if is_cancelled else ordered - max(called_off, repaid) - returned
        expected[product_id] = (50 - left - kept_off, 0) if is_paid else (50, wanted)
    assert expected == _end(data.draw(st.permutations(story)))


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Draw a stream of events about few products, orders and carts, with scarce stock."""
    stream = [product(product_id, draw(st.integers(0, 10)), draw(st.integers(0, 4))) for product_id in PRODUCTS]
    for number in range(draw(st.integers(1, 25))):
        topic = draw(
            st.sampled_from(
                ("cart.updated", "order.created", "payment.succeeded", "order.cancelled", "payment.refunded")
            )
        )
        data: dict[str, Any] = {"cart_id": draw(carts)} if topic == "cart.updated" else {"order_id": draw(orders)}
        if topic != "payment.succeeded" and (topic != "order.cancelled" or draw(st.booleans())):
            data["items"] = items(draw(known_lines))
        if topic == "order.created":
            data["cart_id"] = draw(st.none() | carts)
        if topic == "payment.refunded":
            data["refund_id"] = draw(st.sampled_from(("r1", "r2")))
            data["restock"] = draw(st.none() | st.booleans())
        stream.append(event(topic, f"e{number}", draw(minutes), **data))
    return stream


def _load(stored: State, batch: list[Event]) -> State:
    """Return the rows that a batch names, and those named by its orders' and carts' rows, as a database would."""
    order_ids = {fact["data"].get("order_id") for fact in batch}
    found_orders = {o: order for o, order in stored.orders.items() if o in order_ids}
    cart_ids = {fact["data"].get("cart_id") for fact in batch}
    found_carts = {c: cart for c, cart in stored.carts.items() if c in cart_ids}
    named = {item["product_id"] for fact in batch for item in fact["data"].get("items", ())}
    named |= {fact["data"].get("product_id") for fact in batch}
    for order in found_orders.values():
        named |= order.lines.keys()
        named |= {product_id for fact in order.waiting for product_id in fact.lines or {}}
    for held in found_carts.values():
        named |= held.held.keys()
    return State({p: row for p, row in stored.products.items() if p in named}, found_orders, found_carts)


def _save(stored: State, state: State) -> None:
    stored.products.update(state.products)
    stored.orders.update(state.orders)
    stored.carts.update(state.carts)


@settings(max_examples=150)
@given(data=st.data(), stream=streams())
def test_results_do_not_depend_on_how_the_stream_was_cut(data: st.DataObject, stream: list[Event]) -> None:
    """Batches that each load only the rows they name end in the state, ledger and outcomes of one single batch."""
    whole = Books(*stream)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream)))) | {0, len(stream)})
    stored, decisions = State({}, {}, {}), []
    for start, stop in pairwise(cuts):
        books = Books()
        books.state = _load(stored, stream[start:stop])
        for published in stream[start:stop]:
            books.take(published)
        _save(stored, books.state)
        decisions += books.decisions
    assert (whole.state, whole.decisions) == (stored, decisions)


@settings(max_examples=100)
@given(data=st.data(), stream=streams())
def test_streams_that_share_nothing_do_not_affect_each_other(data: st.DataObject, stream: list[Event]) -> None:
    """Two shops' events, merged in any way, lead to the state and outcomes of each shop alone."""
    other = [_renamed(published) for published in stream]
    merged = list(stream)
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), min_size=len(other), max_size=len(other))))
    for offset, (place, published) in enumerate(zip(places, other, strict=True)):
        merged.insert(place + offset, published)
    together, alone, apart = Books(*merged), Books(*stream), Books(*other)
    _save(alone.state, apart.state)
    assert alone.state == together.state
    assert sorted(map(repr, together.outcomes)) == sorted(map(repr, alone.outcomes + apart.outcomes))


def _renamed(published: Event) -> Event:
    data: dict[str, Any] = {
        name: f"x{value}" if name in {"order_id", "cart_id", "product_id"} else value
        for name, value in published["data"].items()
    }
    if "items" in data:
        data["items"] = [{**item, "product_id": f"x{item['product_id']}"} for item in data["items"]]
    return {**published, "id": f"x{published['id']}", "data": data}


@settings(max_examples=100)
@given(stream=streams())
def test_an_alert_is_reported_exactly_once_per_edge(stream: list[Event]) -> None:
    """The alerts of a product are the edges of its status after each event: none missing, none repeated."""
    books = Books()
    reported: dict[str, str] = {}
    expected: list[tuple[str, str]] = []
    for published in stream:
        decision = books.take(published)
        for product_id, found in books.state.products.items():
            if is_edge(reported.setdefault(product_id, "ok"), found.status):
                reported[product_id] = found.status
                expected.append((product_id, found.status))
        seen = [(alert.product.product_id, str(alert.severity)) for alert in _alerts(decision)]
        assert sorted(expected) == sorted(seen)
        expected.clear()


@settings(max_examples=100)
@given(stream=streams())
def test_stock_on_hand_is_what_came_in_less_what_went_out(stream: list[Event]) -> None:
    """Initial stock plus what came in minus what went out is what is on hand, and it is never oversold."""
    books = Books()
    flows: Counter[str] = Counter()
    for published in stream:
        for entry in books.take(published).entries:
            flows[entry.product_id] += {EntryType.IN: 1, EntryType.OUT: -1}.get(entry.type, 0) * entry.quantity
        for product_id, found in books.state.products.items():
            assert flows[product_id] == found.on_hand
            assert 0 <= found.reserved <= found.on_hand


@settings(max_examples=100)
@given(stream=streams())
def test_the_ledger_rebuilds_the_state(stream: list[Event]) -> None:
    """Replaying each product's entries gives its stock; sequences have no holes and each before is the last after."""
    books = Books(*stream)
    books.check()


@settings(max_examples=100)
@given(stream=streams())
def test_a_repeated_event_moves_nothing(stream: list[Event]) -> None:
    """Every event about orders and products, repeated at once, writes no entry and has no outcome."""
    books = Books()
    for published in stream:
        books.take(published)
        if published["topic"] == "cart.updated":
            continue  # a snapshot of the same instant applies again, to the same hold; ids are the inbox's
        again = books.take(published)
        assert again.disposition in {Disposition.DUPLICATE, Disposition.CONFLICT}
        assert (again.entries, again.outcomes, again.products) == ((), (), {})


def _alerts(decision: Decision) -> list[StockAlert]:
    return [outcome for outcome in decision.outcomes if isinstance(outcome, StockAlert)]
