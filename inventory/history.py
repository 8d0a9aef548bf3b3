"""Turns a shop's order history, rows of a CSV file, into events; no clock, no files, no randomness.

The rows are invoice lines with the columns InvoiceNo, StockCode, Quantity, InvoiceDate and CustomerID, in the order
in which they happened. The lines of one invoice stand together, or at most `INVOICE_WINDOW` rows apart. The history
has less detail than events, so this is assumed:

| in the file | becomes |
|---|---|
| the lines sold by an invoice | cart.updated, order.created with that cart, payment.succeeded |
| more than 1,000 products in one invoice | several such orders, `INVOICE-1`, `INVOICE-2` ... |
| a `C...` invoice that takes back one order as a whole | order.cancelled |
| a `C...` invoice that takes back parts of orders | payment.refunded, one per order |
| lines of a `C...` invoice that match no earlier sale to that customer | inventory.adjustment ADD |
| a negative quantity in another invoice (written off) | inventory.adjustment SUBTRACT |
| a positive quantity in a `C...` invoice (a return undone) | inventory.adjustment SUBTRACT |
| quantity 0 | nothing |

A `C...` invoice does not say what it takes back: its lines are matched to the same customer's newest sales of the
product that are not taken back yet. `C` may be written `c`: read as a sale, the return would take its units a second
time. Ids of events follow from the file alone, so publishing it twice changes nothing.
"""

import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from inventory.csv_rows import column_names, header_problem, row_problem
from inventory.errors import OperatorError
from inventory.identifiers import id_problem
from schemas.limits import MAX_ID_LENGTH, MAX_LINES, MAX_QUANTITY

COLUMNS: Final = ("InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "CustomerID")
# Ids of orders and refunds are derived from the invoice's, and must stay within MAX_ID_LENGTH.
MAX_INVOICE_LENGTH: Final = 100
# Rows between two lines of one invoice: where several tills write one file, their invoices are interleaved.
INVOICE_WINDOW: Final = 1_000
# Rows kept in memory while an invoice is gathered.
MAX_GATHERED: Final = 100_000

_NAMESPACE: Final = uuid.UUID("5e4eb5d4-6a2c-5f3e-9d0b-2f1f0c7f4f7c")


class HistoryError(OperatorError):
    """A row of the file cannot be turned into events."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(f"line {line}: {message}")


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """One checked row of the file; `line` is its line number."""

    line: int
    invoice: str
    product: str
    quantity: int
    at: datetime
    customer: str

    @property
    def cancels(self) -> bool:
        """Whether the row's invoice cancels or refunds earlier ones."""
        return self.invoice.startswith(("C", "c"))


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One event to publish; `at` is its time in the file, None for products, which come before it."""

    topic: str
    key: str
    id: str
    data: Mapping[str, Any]
    at: datetime | None


@dataclass(slots=True)
class Survey:
    """What a first pass over the file finds: its size, and the stock each product needs so that nothing is refused.

    Returns do not reduce that: topics are not ordered among each other, so a sale may be read before the return that
    made it possible.
    """

    rows: int = 0
    invoices: int = 0
    needed: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Sale:
    """An order that may still be cancelled or refunded, in whole or in part."""

    order_id: str
    sold: dict[str, int]
    left: dict[str, int]


def read_lines(rows: Iterable[tuple[int, Sequence[str]]]) -> Iterator[InvoiceLine]:
    """Check numbered rows, the first being the header, and yield them invoice by invoice.

    Raises HistoryError for the first bad one.
    """
    return gather(_checked(rows))


def gather(lines: Iterable[InvoiceLine], window: int = INVOICE_WINDOW) -> Iterator[InvoiceLine]:
    """Yield the lines invoice by invoice, the invoices in the order of their first lines.

    An invoice is complete once the `window` rows after its last line have none of it. Raises HistoryError for a line
    that comes later, and for an invoice of two customers.
    """
    gathered: dict[str, list[InvoiceLine]] = {}
    last: dict[str, int] = {}
    waiting = 0
    for position, line in enumerate(lines):
        invoice = line.invoice
        if position - last.get(invoice, position) > window:
            raise HistoryError(
                line.line,
                f"invoice {invoice} appears again more than {window:,} rows after its last line; "
                "the lines of one invoice go together",
            )
        rows = gathered.setdefault(invoice, [])
        if rows and rows[0].customer != line.customer:
            raise HistoryError(
                line.line, f"invoice {invoice} has two customers, {rows[0].customer!r} and {line.customer!r}"
            )
        rows.append(line)
        last[invoice] = position
        waiting += 1
        if waiting > MAX_GATHERED:
            first = next(iter(gathered))
            raise HistoryError(line.line, f"invoice {first} is spread over more than {MAX_GATHERED:,} rows")
        while gathered and position - last[first := next(iter(gathered))] >= window:
            complete = gathered.pop(first)
            waiting -= len(complete)
            yield from complete
    for complete in gathered.values():
        yield from complete


def _checked(rows: Iterable[tuple[int, Sequence[str]]]) -> Iterator[InvoiceLine]:
    numbered = iter(rows)
    number, header = next(numbered, (1, ()))
    names = column_names(header)
    places = _places(number, names)
    for number, row in numbered:
        if not any(row):
            continue
        if problem := row_problem(names, row):
            raise HistoryError(number, problem)
        yield _line(number, [row[place] for place in places])


def survey(lines: Iterable[InvoiceLine]) -> Survey:
    """Count rows and invoices, and the units of each product that leave the stock."""
    found = Survey()
    invoice = None
    for line in lines:
        found.rows += 1
        found.invoices += line.invoice != invoice
        invoice = line.invoice
        goes_out = line.quantity > 0 or not line.cancels
        found.needed[line.product] += abs(line.quantity) if goes_out else 0
    return found


def product_events(
    found: Survey, initial_stock: int | None = None, threshold: int | None = None
) -> Iterator[HistoryEvent]:
    """Create every product of the file with `initial_stock`, or with what it needs where that is None."""
    for product, needed in found.needed.items():
        quantity = needed if initial_stock is None else initial_stock
        if quantity > MAX_QUANTITY:
            raise OperatorError(
                f"product {product} needs {quantity:,} in stock, but an event holds at most {MAX_QUANTITY:,}; "
                "publish a shorter file or give --initial-stock a number"
            )
        data: dict[str, Any] = {"product_id": product, "initial_quantity": quantity}
        if threshold is not None:
            data["low_stock_threshold"] = threshold
        # Stock and threshold are part of the id: with other values a second run is a duplicate, not a reused id.
        yield _event("product.created", product, data, None, str(quantity), str(threshold))


def invoice_events(lines: Iterable[InvoiceLine]) -> Iterator[HistoryEvent]:
    """Turn checked lines into events, invoice by invoice, in the file's order.

    Keeps in memory only what was sold and may still be returned.
    """
    # The newest sale is last: returns are matched from the end.
    sales: defaultdict[tuple[str, str], list[_Sale]] = defaultdict(list)
    for invoice, group in groupby(lines, key=attrgetter("invoice")):
        rows = list(group)
        first = rows[0]
        sold = _sum_by_product(row for row in rows if row.quantity > 0)
        taken = _sum_by_product(row for row in rows if row.quantity < 0)
        if first.cancels:
            yield from _take_back(first, taken, sales)
            yield from _adjustments(first, "SUBTRACT", sold, f"return undone by invoice {invoice}")
        else:
            yield from _sell(first, sold, sales)
            yield from _adjustments(first, "SUBTRACT", taken, f"written off by invoice {invoice}")


def _sell(
    first: InvoiceLine, sold: dict[str, int], sales: defaultdict[tuple[str, str], list[_Sale]]
) -> Iterator[HistoryEvent]:
    products = list(sold)
    parts = [products[start : start + MAX_LINES] for start in range(0, len(products), MAX_LINES)]
    for number, part in enumerate(parts, start=1):
        order_id = first.invoice if len(parts) == 1 else f"{first.invoice}-{number}"
        lines = {product: sold[product] for product in part}
        yield from _order(first, order_id, lines)
        if first.customer:
            sale = _Sale(order_id, lines, dict(lines))
            for product in part:
                sales[first.customer, product].append(sale)


def _order(first: InvoiceLine, order_id: str, lines: dict[str, int]) -> Iterator[HistoryEvent]:
    cart_id = f"cart-{order_id}"
    buyer = {"user_id": first.customer} if first.customer else {}
    items = _items(lines)
    cart = {"cart_id": cart_id, **buyer, "items": items}
    order = {"order_id": order_id, "cart_id": cart_id, **buyer, "items": items}
    payment = {"order_id": order_id, "payment_id": f"payment-{order_id}"}
    yield _event("cart.updated", cart_id, cart, first.at)
    yield _event("order.created", order_id, order, first.at)
    yield _event("payment.succeeded", order_id, payment, first.at)


def _take_back(
    first: InvoiceLine, returned: dict[str, int], sales: defaultdict[tuple[str, str], list[_Sale]]
) -> Iterator[HistoryEvent]:
    touched: dict[str, tuple[_Sale, dict[str, int]]] = {}
    unmatched: dict[str, int] = {}
    for product, quantity in returned.items():
        missing = quantity
        stack = sales.get((first.customer, product), [])
        while missing and stack:
            sale = stack[-1]
            part = min(missing, sale.left[product])
            touched.setdefault(sale.order_id, (sale, {}))[1][product] = part
            missing -= part
            sale.left[product] -= part
            if not sale.left[product]:
                stack.pop()
        if missing:
            unmatched[product] = missing
    for order_id, (sale, parts) in touched.items():
        if parts == sale.sold:
            data: dict[str, Any] = {"order_id": order_id, "reason": f"invoice {first.invoice}"}
            yield _event("order.cancelled", order_id, data, first.at, first.invoice)
        else:
            data = {"order_id": order_id, "refund_id": f"{first.invoice}-{order_id}", "items": _items(parts)}
            yield _event("payment.refunded", order_id, data, first.at, first.invoice)
    yield from _adjustments(first, "ADD", unmatched, f"returned by invoice {first.invoice}, no earlier sale found")


def _adjustments(first: InvoiceLine, operation: str, quantities: dict[str, int], reason: str) -> Iterator[HistoryEvent]:
    for product, quantity in quantities.items():
        data = {
            "product_id": product,
            "operation": operation,
            "quantity": quantity,
            "reason": reason,
            "operator": "inventory publish",
        }
        yield _event("inventory.adjustment", product, data, first.at, first.invoice, operation)


def _event(topic: str, key: str, data: dict[str, Any], at: datetime | None, *cause: str) -> HistoryEvent:
    """Derive the event's id from what it is about, so that the same file always gives the same ids."""
    event_id = str(uuid.uuid5(_NAMESPACE, "\x1f".join((topic, key, *cause))))
    return HistoryEvent(topic, key, event_id, data, at)


def _items(lines: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"product_id": product, "quantity": quantity} for product, quantity in lines.items()]


def _sum_by_product(rows: Iterable[InvoiceLine]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for row in rows:
        sums[row.product] = sums.get(row.product, 0) + abs(row.quantity)
        if sums[row.product] > MAX_QUANTITY:
            raise HistoryError(row.line, f"invoice {row.invoice} has more than {MAX_QUANTITY:,} of {row.product}")
    return sums


def _places(number: int, names: Sequence[str]) -> list[int]:
    if problem := header_problem(names):
        raise HistoryError(number, problem)
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        wanted = "" if len(missing) == len(COLUMNS) else f"; wanted are {', '.join(COLUMNS)}"
        raise HistoryError(number, f"the header has no {', '.join(missing)}{wanted}")
    return [names.index(column) for column in COLUMNS]


def _line(number: int, values: list[str]) -> InvoiceLine:
    invoice, product, quantity, date, customer = values
    _check_id(number, "InvoiceNo", invoice, MAX_INVOICE_LENGTH)
    _check_id(number, "StockCode", product, MAX_ID_LENGTH)
    if customer:
        _check_id(number, "CustomerID", customer, MAX_ID_LENGTH)
    return InvoiceLine(
        number, invoice, product, _quantity(number, quantity.strip()), _date(number, date.strip()), customer
    )


def _check_id(number: int, column: str, text: str, longest: int) -> None:
    if problem := id_problem(text, longest):
        raise HistoryError(number, f"{column} {problem}")


def _quantity(number: int, text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise HistoryError(number, f"Quantity {text[:40]!r} is not a whole number")
    quantity = int(text)
    if abs(quantity) > MAX_QUANTITY:
        raise HistoryError(number, f"Quantity {quantity:,} is beyond {MAX_QUANTITY:,}, the most that one line may have")
    return quantity


def _date(number: int, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise HistoryError(number, f"InvoiceDate {text[:40]!r} is not like 2010-12-01T08:26:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
