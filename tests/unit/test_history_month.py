"""A real shop's month becomes events that balance with its file."""

import csv
import gzip
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from inventory.history import InvoiceLine, invoice_events, product_events, read_lines, survey
from tests.unit.invoices import decoded, quantities

REAL_MONTH = Path(__file__).parents[3] / "shared" / "data" / "online-retail-2010-12.csv.gz"


@pytest.fixture(scope="module")
def month() -> list[InvoiceLine]:
    """A real shop's December, where the file is there."""
    if not REAL_MONTH.exists():
        pytest.skip(f"needs {REAL_MONTH}")
    with gzip.open(REAL_MONTH, "rt", encoding="utf-8", newline="") as file:
        return list(read_lines(enumerate(csv.reader(file), start=1)))


def test_a_real_month_balances_product_by_product(month: list[InvoiceLine]) -> None:
    """Per product, what the events take out and put back is what the file's rows add up to."""
    net: defaultdict[str, int] = defaultdict(int)
    orders: dict[str, dict[str, int]] = {}
    for event in invoice_events(month):
        if event.topic == "order.created":
            orders[event.key] = quantities(event)
            for product, quantity in quantities(event).items():
                net[product] += quantity
        elif event.topic == "order.cancelled":
            for product, quantity in orders[event.key].items():
                net[product] -= quantity
        elif event.topic == "payment.refunded":
            for product, quantity in quantities(event).items():
                net[product] -= quantity
        elif event.topic == "inventory.adjustment":
            sign = {"ADD": -1, "SUBTRACT": 1}[event.data["operation"]]
            net[event.key] += sign * event.data["quantity"]
    in_file: defaultdict[str, int] = defaultdict(int)
    for line in month:
        written_off = line.quantity < 0 and not line.invoice.startswith("C")
        in_file[line.product] += -line.quantity if written_off else line.quantity
    assert {product: quantity for product, quantity in net.items() if quantity} == {
        product: quantity for product, quantity in in_file.items() if quantity
    }


def test_a_real_month_never_returns_more_than_was_sold(month: list[InvoiceLine]) -> None:
    """Refunds and cancellations of an order stay within its lines, and come after it."""
    left: dict[str, Counter[str]] = {}
    for event in invoice_events(month):
        if event.topic == "order.created":
            left[event.key] = Counter(quantities(event))
        elif event.topic == "order.cancelled":
            assert left.pop(event.key)
        elif event.topic == "payment.refunded":
            left[event.key].subtract(quantities(event))
            assert min(left[event.key].values()) >= 0


def test_a_real_month_satisfies_the_contracts(month: list[InvoiceLine]) -> None:
    """Every event of the month is accepted as it is, and no id comes twice."""
    events = [*product_events(survey(month)), *invoice_events(month)]
    assert len({decoded(event).id for event in events}) == len(events)
