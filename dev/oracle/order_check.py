"""Check one order: some order of its events, and some answers from the stock, lead to what was observed."""

from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from dev.oracle.events import Event
from dev.oracle.observations import History, Row, Violation, cause_of
from dev.oracle.shop import Shop
from dev.oracle.stock import Product
from dev.oracle.verdicts import Verdict

END_OF_TIME = datetime.max.replace(tzinfo=UTC)
NO_STOCK = frozenset({"insufficient_stock", "unknown_product"})
STEPS_PER_ORDER = 20_000

Key = TypeVar("Key")


@dataclass
class _AssumedStock:
    """An assumed answer from the stock: there is enough or there is not, but never of a product that never existed."""

    known: frozenset[str]
    is_enough: bool = True
    was_asked: bool = False

    def __deepcopy__(self, memo: object) -> "_AssumedStock":
        """Copies share the set of products: it is large and immutable."""
        return _AssumedStock(self.known, self.is_enough, self.was_asked)

    def __call__(self, needed: Mapping[str, int]) -> bool:
        self.was_asked = True
        return self.is_enough and needed.keys() <= self.known


@dataclass(frozen=True)
class _Effect:
    """What an order's events led to: its status, the units moved and the outcomes, regardless of when."""

    status: str
    moved: frozenset[tuple[tuple[str, str], int]]
    outcomes: frozenset[tuple[tuple[Any, ...], int]]


def check_order(history: History, order_id: str) -> Iterator[Violation]:
    """Search for an order of the events, and answers from the stock, that lead to what was observed."""
    events = sorted(history.orders[order_id], key=lambda event: event.at)
    outcomes = Counter(_observed_outcome(body) for body in history.outgoing[order_id])
    moved: Counter[tuple[str, str]] = Counter()
    for row in history.entries.get(("ORDER", order_id), ()):
        moved[row["product_id"], row["type"]] += row["quantity"]
    observed = _Effect(history.observed.orders.get(order_id, "pending"), _frozen(moved), _frozen(outcomes))
    answer = _AssumedStock(frozenset(history.observed.stock))
    shop = Shop(history.settings, has_stock=answer)
    for product_id in {product_id for event in events for product_id in event.lines or {}}:
        shop.products[product_id] = Product(on_hand=10**12)
    search = _Search(order_id, observed, outcomes)
    if not search.explains(shop, answer, events, Counter(), may_expire="expired" in {kind for kind, *_ in outcomes}):
        nearest = "; ".join(f"{event.topic} {event.id}" for event in events)
        yield Violation("order", order_id, f"no permutation of its events ({nearest}) leads to {observed}")
    yield from _refusals(history, order_id)


@dataclass
class _Search:
    """Tries the permutations of one order's events; gives a branch up once it has an outcome that was not observed."""

    order_id: str
    observed: _Effect
    outcomes: Counter[tuple[Any, ...]]
    steps: int = 0

    def explains(
        self,
        shop: Shop,
        answer: _AssumedStock,
        events: list[Event],
        so_far: Counter[tuple[Any, ...]],
        *,
        may_expire: bool,
    ) -> bool:
        """Say whether some permutation of the remaining events leads from here to what was observed."""
        self.steps += 1
        if self.steps > STEPS_PER_ORDER:
            raise RuntimeError(f"order {self.order_id} has too many possible histories to check")
        if not events and not may_expire:
            return self._effect(shop, so_far) == self.observed
        for is_enough in (True, False):
            for index, event in enumerate(events):
                after, asked = deepcopy((shop, answer))
                asked.is_enough, asked.was_asked = is_enough, False
                total = so_far + _outcomes_of(after.apply(event.published))
                if (is_enough or asked.was_asked) and total <= self.outcomes:
                    rest = events[:index] + events[index + 1 :]
                    if self.explains(after, asked, rest, total, may_expire=may_expire):
                        return True
        if may_expire:
            after, asked = deepcopy((shop, answer))
            total = so_far + _outcomes_of(after.expire_order(self.order_id, END_OF_TIME))
            if total != so_far and total <= self.outcomes:
                return self.explains(after, asked, events, total, may_expire=False)
        return False

    def _effect(self, shop: Shop, so_far: Counter[tuple[Any, ...]]) -> _Effect:
        order = shop.orders.get(self.order_id)
        moved = Counter({(p, kind): n for p, product in shop.products.items() for kind, n in product.ledger.items()})
        return _Effect("pending" if order is None else order.status, _frozen(moved), _frozen(so_far))


def _outcomes_of(verdict: Verdict) -> Counter[tuple[Any, ...]]:
    return Counter(
        (outcome.kind, cause_of(outcome.cause), outcome.lines, _reason(outcome.reason)) for outcome in verdict.outcomes
    )


def _observed_outcome(body: Row) -> tuple[Any, ...]:
    """Return an observed outcome in the form of `_outcomes_of`; a refusal's lines are shortages, so no units moved."""
    reason = _reason(body.get("reason"))
    lines = () if reason else tuple(sorted((line["product_id"], line["quantity"]) for line in body.get("lines", ())))
    return (str(body["type"]).rpartition(".")[2], cause_of(body["caused_by"]), lines, reason)


def _reason(reason: str | None) -> str | None:
    """Unknown product and insufficient stock are one answer here: which applies depends on timing."""
    return "no_stock" if reason in NO_STOCK else reason


def _frozen(counts: Counter[Key]) -> frozenset[tuple[Key, int]]:
    return frozenset((key, count) for key, count in counts.items() if count)


def _refusals(history: History, order_id: str) -> Iterator[Violation]:
    """An order refused for lack of stock must name only lines of which too little was available at some time."""
    for body in history.outgoing[order_id]:
        if body.get("reason") != "insufficient_stock":
            continue
        short = [line for line in body["lines"] if line["reason"] == "insufficient_stock"]
        if not all(line["available"] < line["requested"] for line in short):
            yield Violation("unjustified", order_id, f"refused although enough was available: {dict(body)}")
        if not all(history.lowest_available(line["product_id"]) < line["requested"] for line in short):
            yield Violation("unjustified", order_id, f"refused for stock that was never that low: {dict(body)}")
