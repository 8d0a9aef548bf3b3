"""Expected sums of a shop's month, computed from its CSV file independently of the program.

Follows only what docs/commands.md promises about `inventory publish`; shares no code with it.
"""

import csv
import gzip
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

Lines = dict[str, int]
# Invoice, product, units: one correction of the stock.
Correction = tuple[str, str, int]


@dataclass
class Month:
    """The orders of a file, their returns, and the corrections of stock."""

    orders: dict[str, Lines] = field(default_factory=dict)
    # By order, what each invoice marked C returns.
    returns: defaultdict[str, list[Lines]] = field(default_factory=lambda: defaultdict(list))
    cancelled: set[str] = field(default_factory=set)
    found: list[Correction] = field(default_factory=list)
    lost: list[Correction] = field(default_factory=list)
    needed: Counter[str] = field(default_factory=Counter)

    @property
    def products(self) -> int:
        """The number of products."""
        return len(self.needed)

    @property
    def events(self) -> int:
        """The number of events: one per product, three per order, one per return and correction."""
        returns = sum(map(len, self.returns.values()))
        return self.products + 3 * len(self.orders) + returns + len(self.found) + len(self.lost)

    def returned(self, order_id: str) -> Counter[str]:
        """The sum of an order's returns."""
        return total(self.returns[order_id])


def total(parts: list[Lines]) -> Counter[str]:
    """Return the sum of several lines."""
    sums: Counter[str] = Counter()
    for lines in parts:
        sums.update(lines)
    return sums


def read(path: Path) -> Month:
    """Read a file of invoice lines, gzip or plain."""
    invoices: dict[str, tuple[str, list[tuple[str, int]]]] = {}
    packed = path.read_bytes()
    text = (gzip.decompress(packed) if path.suffix == ".gz" else packed).decode()
    for row in csv.DictReader(text.splitlines()):
        customer, lines = invoices.setdefault(row["InvoiceNo"], (row["CustomerID"], []))
        assert customer == row["CustomerID"]
        lines.append((row["StockCode"], int(row["Quantity"])))
    month = Month()
    # By customer and product: the orders that sold it, oldest first, with the units not yet returned.
    open_sales: defaultdict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    for invoice, (customer, lines) in invoices.items():
        taken: Lines = {}
        sold: Lines = {}
        for product, quantity in lines:
            side = sold if quantity > 0 else taken
            side[product] = side.get(product, 0) + abs(quantity)
            month.needed[product] += abs(quantity) if quantity > 0 or not invoice.startswith("C") else 0
        if invoice.startswith("C"):
            month.lost += [(invoice, product, quantity) for product, quantity in sold.items()]
            _take_back(month, open_sales, invoice, customer, taken)
            continue
        month.lost += [(invoice, product, quantity) for product, quantity in taken.items() if quantity]
        if sold:
            month.orders[invoice] = sold
        for product, quantity in sold.items():
            if customer:
                open_sales[customer, product].append((invoice, quantity))
    return month


def _take_back(
    month: Month, open_sales: dict[tuple[str, str], list[tuple[str, int]]], invoice: str, customer: str, taken: Lines
) -> None:
    by_order: defaultdict[str, Lines] = defaultdict(dict)
    for product, quantity in taken.items():
        left = quantity
        sales = open_sales[customer, product]
        while left and sales:
            order, units = sales.pop()
            by_order[order][product] = part = min(left, units)
            left -= part
            if units > part:
                sales.append((order, units - part))
        if left:
            month.found.append((invoice, product, left))
    for order, lines in by_order.items():
        month.returns[order].append(lines)
        if lines == month.orders[order]:
            month.cancelled.add(order)


def generate(path: Path, seed: int) -> None:
    """Write a small month with the traits of the real one.

    Orders of hundreds of lines, repeated products in one order, customers without a number, orders returned in part and
    completely, returns of what was never sold, write-offs.
    """
    draw = random.Random(seed)  # noqa: S311 - test data
    products = [f"{number:05d}{letter}" for number in range(10, 130) for letter in ("", "A")]
    at = datetime(2010, 12, 1, 8, tzinfo=UTC)
    rows: list[tuple[str, str, int, str, str]] = []
    past: list[tuple[str, list[tuple[str, int]]]] = []
    for number in range(400):
        at += timedelta(minutes=draw.randint(1, 30))
        invoice = str(536000 + number)
        customer = draw.choice(["", *(str(12000 + person) for person in range(40))])
        kind = draw.random()
        if number % 97 == 50:
            lines = [(product, draw.randint(1, 3)) for product in draw.choices(products, k=500)]
        elif kind < 0.08:
            lines = [(draw.choice(products), -draw.randint(1, 9)) for _ in range(draw.randint(1, 3))]
        elif kind < 0.25 and past:
            customer, sold = draw.choice(past)
            invoice = f"C{invoice}"
            part = sold if draw.random() < 0.3 else draw.sample(sold, draw.randint(1, len(sold)))
            lines = [(product, -quantity) for product, quantity in part]
            lines += [(draw.choice(products), -1)] * draw.randint(0, 1)
        else:
            lines = [(draw.choice(products), draw.randint(1, 12)) for _ in range(draw.randint(1, 20))]
            lines += lines[:1] * draw.randint(0, 1)
            past.append((customer, lines))
        rows += [(invoice, *line, at.isoformat(), customer) for line in lines]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "CustomerID"))
        writer.writerows(rows)
