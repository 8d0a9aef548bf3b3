"""The workloads: seeded, so that every contestant gets the same events.

A workload is stock, written into the database beforehand, and a stream of records.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from dev.records import ProducedRecord
from inventory.csv_rows import open_rows
from inventory.history import invoice_events, read_lines, survey

SOURCE = b"/shop/checkout"
AMPLE_STOCK = 1_000_000

# Of a hundred orders, how many are paid, cancelled, or paid and then cancelled; the rest is abandoned.
_PAID, _CANCELLED, _PAID_AND_CANCELLED = 80, 12, 4
_LINES = 3
_MAX_CART_LINES = 5
_EMPTIED = 0.1
# Stock in a flash sale as a share of the units ordered.
_SHARE_ON_SALE = 0.1
_ABANDONED_OF_EACH = 10

Item = dict[str, Any]


class Draft(NamedTuple):
    """An event without its id and time."""

    topic: str
    key: str
    data: Item


@dataclass(frozen=True, slots=True)
class Workload:
    """Stock by product and `events` drafts; each call of `drafts()` gives the same stream."""

    name: str
    stock: dict[str, int]
    events: int
    drafts: Callable[[], Iterable[Draft]]

    def records(self, now: datetime) -> Iterator[ProducedRecord]:
        """Give the records, 1 ms of event time apart, the last at `now`."""
        began = now - timedelta(milliseconds=self.events)
        for number, draft in enumerate(itertools.islice(self.drafts(), self.events)):
            yield record(draft, f"{self.name}-{number:08d}", began + timedelta(milliseconds=number))


def record(draft: Draft, event_id: str, at: datetime) -> ProducedRecord:
    """Return the record that carries `draft`."""
    topic = draft.topic.encode()
    return ProducedRecord(
        draft.topic,
        draft.key.encode(),
        orjson.dumps(draft.data),
        [
            ("ce_specversion", b"1.0"),
            ("ce_id", event_id.encode()),
            ("ce_source", SOURCE),
            ("ce_type", topic),
            ("ce_time", at.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()),
            ("content-type", b"application/json"),
        ],
        int(at.timestamp() * 1000),
    )


def product_id(number: int) -> str:
    """Return the id of the product with this number; the first is 1."""
    return f"SKU-{number:07d}"


def life_cycle(
    events: int, products: int = 10_000, *, stride: int = 1, stock: dict[str, int] | None = None
) -> Workload:
    """Orders of three lines over Zipf-distributed products, paid or cancelled some thousand events later.

    With a stride n the products are every n-th of a larger catalogue.
    """
    wait = (max(events // 40, 1), max(events // 10, 2))

    def drafts() -> Iterator[Draft]:
        chance = random.Random(1)  # noqa: S311 - a reproducible workload, not a secret
        picks = _zipf(chance, products, stride)
        follow_ups: list[tuple[int, int, Draft]] = []
        numbers = itertools.count()
        for place in itertools.count():
            if follow_ups and follow_ups[0][0] <= place:
                yield heapq.heappop(follow_ups)[2]
                continue
            number = next(numbers)
            order_id = f"order-{number:08d}"
            yield _created(order_id, chance, [next(picks) for _ in range(_LINES)])
            due = place
            for draft in _ending(order_id, chance.randrange(100)):
                due += chance.randint(*wait)
                heapq.heappush(follow_ups, (due, number, draft))

    return Workload("life", stock or _stock(products, stride=stride), events, drafts)


def flash_sale(events: int, products: int) -> Workload:
    """Orders of one or two units, ten times the stock: most are refused, the others are paid.

    With one product all compete for the same row; with many the same demand is spread evenly, for comparison.
    """
    stock = max(round(events * 1.5 * _SHARE_ON_SALE / products), 2)

    def drafts() -> Iterator[Draft]:
        chance = random.Random(2)  # noqa: S311 - a reproducible workload, not a secret
        left = dict.fromkeys(range(1, products + 1), stock)
        to_pay: list[Draft] = []
        for number in itertools.count():
            if len(to_pay) > _ABANDONED_OF_EACH:
                yield from to_pay
                to_pay.clear()
            order_id, product = f"order-{number:08d}", chance.randint(1, products)
            quantity = chance.randint(1, 2)
            yield Draft(
                "order.created",
                order_id,
                {"order_id": order_id, "items": [{"product_id": product_id(product), "quantity": quantity}]},
            )
            if left[product] >= quantity:
                left[product] -= quantity
                to_pay.append(_paid(order_id))

    name = "hot" if products == 1 else "spread"
    return Workload(name, _stock(products, stock), events, drafts)


def churning_carts(events: int, products: int = 10_000, carts: int = 2_000) -> Workload:
    """Carts that change all the time: each event is a snapshot, one in ten of them empty."""

    def drafts() -> Iterator[Draft]:
        chance = random.Random(3)  # noqa: S311 - a reproducible workload, not a secret
        picks = _zipf(chance, products)
        versions = dict.fromkeys(range(carts), 0)
        while True:
            cart = chance.randrange(carts)
            versions[cart] += 1
            size = 0 if chance.random() < _EMPTIED else chance.randint(1, _MAX_CART_LINES)
            cart_id = f"cart-{cart:06d}"
            items = [{"product_id": next(picks), "quantity": chance.randint(1, 3)} for _ in range(size)]
            data = {"cart_id": cart_id, "user_id": f"user-{cart:06d}", "version": versions[cart], "items": items}
            yield Draft("cart.updated", cart_id, data)

    return Workload("carts", _stock(products), events, drafts)


def real_month(path: Path) -> Workload:
    """One month of a real shop, with the stock that it needs; orders of up to 675 lines."""
    stock = dict(survey(read_lines(open_rows(path))).needed)
    drafts = [Draft(event.topic, event.key, dict(event.data)) for event in invoice_events(read_lines(open_rows(path)))]
    return Workload("csv", stock, len(drafts), lambda: drafts)


def plain_orders(events: int, products: int, lines: int) -> Workload:
    """Orders of one unit of each of some products, drawn uniformly; no payments or cancellations."""

    def drafts() -> Iterator[Draft]:
        chance = random.Random(5)  # noqa: S311 - a reproducible workload, not a secret
        for number in itertools.count():
            order_id = f"order-{number:08d}"
            items = [{"product_id": product_id(chance.randint(1, products)), "quantity": 1} for _ in range(lines)]
            yield Draft("order.created", order_id, {"order_id": order_id, "items": items})

    return Workload("orders", _stock(products), events, drafts)


def steady(events: int, rate: int) -> Workload:
    """Alternately an order and the payment of an earlier one, so that every event has an outcome."""

    def drafts() -> Iterator[Draft]:
        chance = random.Random(4)  # noqa: S311 - a reproducible workload, not a secret
        picks = _zipf(chance, 10_000)
        unpaid: deque[str] = deque()
        for number in itertools.count():
            if number % 2 and number > rate:
                yield _paid(unpaid.popleft())
                continue
            order_id = f"order-{number:08d}"
            unpaid.append(order_id)
            yield _created(order_id, chance, [next(picks) for _ in range(_LINES)])

    return Workload("steady", _stock(10_000), events, drafts)


def _stock(products: int, stock: int = AMPLE_STOCK, *, stride: int = 1) -> dict[str, int]:
    return {product_id(number * stride): stock for number in range(1, products + 1)}


def _zipf(chance: random.Random, products: int, stride: int = 1) -> Iterator[str]:
    """Give product ids endlessly; the n-th most popular has weight 1/n."""
    ids = [product_id(number * stride) for number in range(1, products + 1)]
    chance.shuffle(ids)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, products + 1)))
    while True:
        yield from chance.choices(ids, cum_weights=weights, k=1_000)


def _created(order_id: str, chance: random.Random, products: list[str]) -> Draft:
    items = [{"product_id": product, "quantity": chance.randint(1, 3)} for product in products]
    user_id = f"user-{chance.randrange(1_000_000):06d}"
    return Draft("order.created", order_id, {"order_id": order_id, "user_id": user_id, "items": items})


def _paid(order_id: str) -> Draft:
    return Draft("payment.succeeded", order_id, {"order_id": order_id, "payment_id": f"payment-of-{order_id}"})


def _cancelled(order_id: str) -> Draft:
    return Draft("order.cancelled", order_id, {"order_id": order_id, "reason": "changed my mind"})


def _ending(order_id: str, percentile: int) -> list[Draft]:
    """Return the events that follow an order."""
    if percentile < _PAID:
        return [_paid(order_id)]
    if percentile < _PAID + _CANCELLED:
        return [_cancelled(order_id)]
    if percentile < _PAID + _CANCELLED + _PAID_AND_CANCELLED:
        return [_paid(order_id), _cancelled(order_id)]
    return []


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
