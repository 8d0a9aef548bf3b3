"""A shop's past becomes the events that DESIGN 8 asks for, the same ones each time."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import pytest

from inventory.errors import OperatorError
from inventory.history import HistoryError, InvoiceLine, Survey, gather, product_events, read_lines, survey
from tests.unit.invoices import AT, HEADER, decoded, events_of, lines, quantities, topics_and_keys


def test_an_invoice_becomes_cart_order_and_payment() -> None:
    """A sale is three events in that order, and the order names its cart."""
    cart, order, payment = events_of("1,a,2,9", "1,b,3,9")
    items = [{"product_id": "a", "quantity": 2}, {"product_id": "b", "quantity": 3}]
    assert (cart.topic, cart.key, cart.data) == (
        "cart.updated",
        "cart-1",
        {"cart_id": "cart-1", "user_id": "9", "items": items},
    )
    assert (order.topic, order.key, order.data) == (
        "order.created",
        "1",
        {"order_id": "1", "cart_id": "cart-1", "user_id": "9", "items": items},
    )
    assert (payment.topic, payment.key, payment.data) == (
        "payment.succeeded",
        "1",
        {"order_id": "1", "payment_id": "payment-1"},
    )


def test_invoices_keep_the_order_of_the_file() -> None:
    """The past is replayed in the order in which it happened."""
    assert [key for topic, key in topics_and_keys(events_of("2,a,1,9", "1,a,1,9")) if topic == "order.created"] == [
        "2",
        "1",
    ]


def test_a_guest_has_no_user() -> None:
    """An empty CustomerID is left out rather than sent as an empty id."""
    assert all("user_id" not in event.data for event in events_of("1,a,2,"))


def test_repeated_products_of_an_invoice_are_summed() -> None:
    """One line per product."""
    assert quantities(events_of("1,a,2,9", "1,b,1,9", "1,a,5,9")[1]) == {"a": 7, "b": 1}


def test_zero_quantities_say_nothing() -> None:
    """A line of 0 is skipped, and an invoice of nothing else says nothing."""
    assert quantities(events_of("1,a,0,9", "1,b,1,9")[1]) == {"b": 1}
    assert events_of("1,a,0,9", "C2,a,0,9") == []


def test_a_write_off_becomes_a_subtraction() -> None:
    """A negative quantity outside a C invoice leaves the shelf without an order."""
    (event,) = events_of("1,a,-4,")
    assert (event.topic, event.key) == ("inventory.adjustment", "a")
    assert (event.data["operation"], event.data["quantity"]) == ("SUBTRACT", 4)
    assert "invoice 1" in event.data["reason"]


def test_an_invoice_may_sell_and_write_off() -> None:
    """Both parts of a mixed invoice are told, each for itself."""
    assert topics_and_keys(events_of("1,a,2,9", "1,a,-1,9"))[1:] == [
        ("order.created", "1"),
        ("payment.succeeded", "1"),
        ("inventory.adjustment", "a"),
    ]


def test_a_whole_reversal_is_a_cancellation() -> None:
    """A C invoice that takes back all of an order cancels it."""
    event = events_of("1,a,2,9", "1,b,1,9", "C2,b,-1,9", "C2,a,-2,9")[-1]
    assert (event.topic, event.key, event.data) == (
        "order.cancelled",
        "1",
        {"order_id": "1", "reason": "invoice C2"},
    )


def test_a_partial_reversal_is_a_refund() -> None:
    """A C invoice that takes back some lines or pieces refunds those."""
    event = events_of("1,a,2,9", "1,b,1,9", "C2,a,-2,9")[-1]
    assert (event.topic, event.key, event.data) == (
        "payment.refunded",
        "1",
        {"order_id": "1", "refund_id": "C2-1", "items": [{"product_id": "a", "quantity": 2}]},
    )


def test_the_rest_of_a_partly_refunded_order_is_refunded_too() -> None:
    """Only what is taken back in one go is a cancellation."""
    events = events_of("1,a,2,9", "C2,a,-1,9", "C3,a,-1,9")
    assert [event.data["refund_id"] for event in events[3:]] == ["C2-1", "C3-1"]


def test_a_return_takes_the_newest_sales_first() -> None:
    """What one sale cannot cover is taken from the one before, each refunded by itself."""
    events = events_of("1,a,5,9", "1,x,1,9", "2,a,2,9", "2,x,1,9", "C3,a,-3,9")[6:]
    assert [(event.key, quantities(event)) for event in events] == [("2", {"a": 2}), ("1", {"a": 1})]


def test_returned_goods_are_not_returned_twice() -> None:
    """A second return finds only what the first has left."""
    events = events_of("1,a,5,9", "1,x,1,9", "C2,a,-4,9", "C3,a,-4,9")[3:]
    assert [(event.topic, event.key) for event in events] == [
        ("payment.refunded", "1"),
        ("payment.refunded", "1"),
        ("inventory.adjustment", "a"),
    ]
    assert [quantities(event) for event in events[:2]] == [{"a": 4}, {"a": 1}]
    assert (events[2].data["operation"], events[2].data["quantity"]) == ("ADD", 3)


@pytest.mark.parametrize("customer", ["8", ""])
def test_a_return_that_matches_no_sale_is_added_to_the_stock(customer: str) -> None:
    """Another customer's sale is no match, nor is a guest's: goods come in, and the reason names the C invoice."""
    event = events_of(f"1,a,5,{'9' if customer else ''}", f"C2,a,-5,{customer}")[-1]
    assert (event.topic, event.data["operation"], event.data["quantity"]) == ("inventory.adjustment", "ADD", 5)
    assert "C2" in event.data["reason"]


def test_a_later_sale_is_no_match() -> None:
    """Nothing is returned before it was sold."""
    assert topics_and_keys(events_of("C1,a,-1,9", "2,a,1,9"))[0] == ("inventory.adjustment", "a")


def test_a_return_undone_takes_goods_out() -> None:
    """A positive quantity in a C invoice is the reverse of a return."""
    (event,) = events_of("C1,a,3,9")
    assert (event.data["operation"], event.data["quantity"]) == ("SUBTRACT", 3)


@pytest.mark.parametrize(("products", "orders"), [(1000, ["1"]), (1001, ["1-1", "1-2"]), (2001, ["1-1", "1-2", "1-3"])])
def test_a_large_invoice_is_split(products: int, orders: list[str]) -> None:
    """No order has more than 1,000 lines, and together they have all of them."""
    created = [
        event for event in events_of(*(f"1,p{n},1,9" for n in range(products))) if event.topic == "order.created"
    ]
    assert [event.key for event in created] == orders
    assert max(len(event.data["items"]) for event in created) == 1000
    assert sum(len(event.data["items"]) for event in created) == products


def test_each_part_of_a_split_invoice_can_be_taken_back() -> None:
    """A return of the whole invoice cancels every part."""
    rows = [f"1,p{n},1,9" for n in range(1500)] + [f"C2,p{n},-1,9" for n in range(1500)]
    assert topics_and_keys(events_of(*rows))[6:] == [("order.cancelled", "1-1"), ("order.cancelled", "1-2")]


def test_the_same_file_says_the_same_ids() -> None:
    """Publishing a file twice is suppressed as duplicates, since not an id differs."""
    rows = ("1,a,5,9", "1,b,1,9", "2,c,-1,9", "C3,a,-6,9", "C4,b,-1,8")
    first, second = events_of(*rows), events_of(*rows)
    assert first == second
    assert len({event.id for event in first}) == len(first)


def test_products_come_with_what_the_file_needs() -> None:
    """`enough` is all that goes out, sold or written off; what comes back is not counted on."""
    found = survey(lines(f"1,a,5,{AT},9", f"C2,a,-5,{AT},9", f"3,a,4,{AT},9", f"4,b,-2,{AT},", f"C5,c,-1,{AT},9"))
    assert [(event.key, event.data["initial_quantity"]) for event in product_events(found)] == [
        ("a", 9),
        ("b", 2),
        ("c", 0),
    ]


def test_products_come_with_the_stock_and_threshold_asked_for() -> None:
    """Both numbers are the same for every product; without a threshold none is sent."""
    found = survey(lines(f"1,a,5,{AT},9"))
    (event,) = product_events(found, 3, 1)
    assert event.data == {"product_id": "a", "initial_quantity": 3, "low_stock_threshold": 1}
    (event,) = product_events(found, 3)
    assert "low_stock_threshold" not in event.data


def test_another_initial_stock_is_another_event() -> None:
    """Publishing again with other stock is a duplicate product, not a reused id."""
    found = Survey(needed=Counter(a=1))
    ids = {
        event.id
        for stock, threshold in ((1, None), (2, None), (1, 5))
        for event in product_events(found, stock, threshold)
    }
    assert len(ids) == 3


def test_more_stock_than_an_event_can_carry_is_said() -> None:
    """A product that needs more than a million is named with a way out."""
    with pytest.raises(OperatorError, match=r"product a needs 1,000,001 .* give --initial-stock"):
        list(product_events(Survey(needed=Counter(a=1_000_001))))


def test_a_survey_counts_rows_and_invoices() -> None:
    """The first pass knows how far the second has to go."""
    found = survey(lines(f"1,a,1,{AT},9", f"1,b,1,{AT},9", f"2,a,1,{AT},9"))
    assert (found.rows, found.invoices) == (3, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,a,many,D,9", "line 2: Quantity 'many' is not a whole number"),
        ("1,a,1.0,D,9", "line 2: Quantity '1.0' is not a whole number"),
        ("1,a,,D,9", "line 2: Quantity '' is not a whole number"),
        ("1,a,1000001,D,9", "line 2: Quantity 1,000,001 is beyond 1,000,000"),
        ("1,a,-1000001,D,9", "line 2: Quantity -1,000,001 is beyond 1,000,000"),
        ("1,a,1,12/1/2010,9", "line 2: InvoiceDate '12/1/2010' is not like 2010-12-01T08:26:00Z"),
        (",a,1,D,9", "line 2: InvoiceNo is empty"),
        ("1,,1,D,9", "line 2: StockCode is empty"),
        (f"1,{'a' * 257},1,D,9", "line 2: StockCode has 257 characters, at most 256"),
        (f"{'1' * 101},a,1,D,9", "line 2: InvoiceNo has 101 characters, at most 100"),
        ("1,a\x00,1,D,9", "line 2: StockCode contains a NUL character"),
        ("1,a,1", "line 2: 3 columns, but the header has 5"),
    ],
)
def test_a_bad_row_is_named_with_its_line(row: str, message: str) -> None:
    """The first bad row stops the reading, says where it is and what is wrong."""
    with pytest.raises(HistoryError) as caught:
        list(lines(row.replace(",D,", f",{AT},")))
    assert str(caught.value).startswith(message)


def test_too_many_of_a_product_in_one_invoice_is_named() -> None:
    """Lines that are fine alone may be too much together."""
    with pytest.raises(HistoryError, match=r"line 3: invoice 1 has more than 1,000,000 of a"):
        events_of("1,a,600000,9", "1,a,600000,9")


def test_a_missing_column_is_named() -> None:
    """A file of another kind is recognised by its header."""
    with pytest.raises(HistoryError, match="line 1: the header has no StockCode, CustomerID; wanted are"):
        list(lines(header="InvoiceNo,Quantity,InvoiceDate"))


def test_an_empty_file_is_named() -> None:
    """A file without even a header is no history."""
    with pytest.raises(HistoryError, match="line 1: the header has no InvoiceNo"):
        list(read_lines(iter(())))


def test_columns_may_stand_in_any_order_beside_others() -> None:
    """A shop's own export needs no rearranging; blank lines, and spaces around numbers, do no harm."""
    (line,) = lines(
        "x,9,a, 3,1,2010-12-01 08:26:00 ", "", header="Country,CustomerID,StockCode,Quantity,InvoiceNo,InvoiceDate"
    )
    assert line == InvoiceLine(2, "1", "a", 3, datetime(2010, 12, 1, 8, 26, tzinfo=UTC), "9")


def test_ids_of_a_history_are_kept_as_they_are() -> None:
    """A space belongs to the id: `"a "` is another product than `"a"`."""
    (line,) = lines(f" 1,a ,3,{AT}, 9")
    assert (" 1", "a ", " 9") == (line.invoice, line.product, line.customer)


@pytest.mark.parametrize(
    ("row", "header", "message"),
    [
        (f"1,a,1,250,{AT},9", HEADER, "line 2: 6 columns, but the header has 5"),
        (f"1,a,1,{AT},9,2", f"{HEADER},Quantity", "line 1: the header names Quantity more than once"),
    ],
)
def test_a_row_that_could_be_misread_is_refused(row: str, header: str, message: str) -> None:
    """A shifted cell or a column named twice would publish another quantity than the file means."""
    with pytest.raises(HistoryError) as caught:
        list(lines(row, header=header))
    assert str(caught.value).startswith(message)


def test_a_cancellation_may_be_written_in_lower_case() -> None:
    """Read as a sale, `c2` would take off units that came back: an error of twice the quantity."""
    upper, lower = (events_of("1,a,5,9", f"{invoice},a,-2,9")[-1] for invoice in ("C2", "c2"))
    assert [("payment.refunded", "1", upper.data["items"])] * 2 == [
        (event.topic, event.key, event.data["items"]) for event in (upper, lower)
    ]


def test_interleaved_invoices_are_gathered() -> None:
    """Two tills that write one file: each invoice is one order with all its lines, in the order of the first lines."""
    events = events_of("1,a,1,9", "2,a,1,8", "1,b,1,9", "2,b,1,8", "3,a,1,9")
    orders = [(event.key, quantities(event)) for event in events if event.topic == "order.created"]
    assert [("1", {"a": 1, "b": 1}), ("2", {"a": 1, "b": 1}), ("3", {"a": 1})] == orders
    assert 3 == survey(lines(*(f"{invoice},a,1,{AT},9" for invoice in "12132"))).invoices


def _of_invoices(invoices: Iterable[str]) -> Iterator[InvoiceLine]:
    """Yield a line of each of these invoices, not gathered yet."""
    at = datetime.fromisoformat(AT)
    return (InvoiceLine(number, invoice, "a", 1, at, "9") for number, invoice in enumerate(invoices, start=1))


@pytest.mark.parametrize(("between", "refused"), [(2, False), (3, True)])
def test_an_invoice_is_gathered_within_a_window(between: int, *, refused: bool) -> None:
    """A line that comes later is refused, since its invoice was complete and may have been published."""
    lines = _of_invoices(["1", *"abc"[:between], "1"])
    if refused:
        with pytest.raises(HistoryError, match="line 5: invoice 1 appears again more than 3 rows after"):
            list(gather(lines, window=3))
    else:
        assert 4 == len(list(gather(lines, window=3)))


def test_gathering_keeps_few_rows() -> None:
    """An invoice is yielded as soon as it is complete, however long the file."""
    read = 0

    def counted() -> Iterator[InvoiceLine]:
        nonlocal read
        for line in _of_invoices(map(str, range(100))):
            read += 1
            yield line

    assert "0" == next(gather(counted(), window=3)).invoice
    assert 4 == read


def test_an_invoice_of_two_customers_is_refused() -> None:
    """One of the two would otherwise be named for the other's order."""
    with pytest.raises(HistoryError, match="line 3: invoice 1 has two customers, '9' and '8'"):
        events_of("1,a,1,9", "1,b,1,8")


def test_every_kind_of_event_satisfies_its_contract() -> None:
    """The worker accepts what the generator says, for each topic it speaks to."""
    rows = ("1,a,2,9", "1,b,1,9", "2,c,1,9", "C3,a,-1,9", "C4,c,-1,9", "5,c,-1,", "C6,d,-1,")
    found = Survey(needed=Counter(a=2))
    events = [*product_events(found, threshold=4), *events_of(*rows)]
    assert {decoded(event).topic for event in events} == {
        "product.created",
        "cart.updated",
        "order.created",
        "payment.succeeded",
        "payment.refunded",
        "order.cancelled",
        "inventory.adjustment",
    }
