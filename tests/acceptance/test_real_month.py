"""A real shop's month through Kafka into PostgreSQL, by two workers, compared with sums from the CSV file.

Once with enough stock for the month, once with so little that many orders are refused. Which ones depends on how the
topics interleave, so refusals are read from `inventory.reservations`, and every other number must follow from them.
"""

import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dev.records import TOPICS_IN, ConsumedRecord
from tests.acceptance import month as months
from tests.acceptance.deployment import Deployment, Worker
from tests.acceptance.month import Month

REAL_FILE = Path(__file__).parents[3] / "shared" / "data" / "online-retail-2010-12.csv.gz"
THRESHOLD = 10
SCARCE = {"real": 150, "generated": 40}
# An entry changes (on hand, reserved) by these multiples of its quantity.
MOVES = {"IN": (1, 0), "OUT": (-1, -1), "RESERVE": (0, 1), "RELEASE": (0, -1)}


class Edge(NamedTuple):
    """One alert, or one recovery, of a product."""

    version: int
    severity: str
    on_hand: int
    reserved: int
    caused_by: str


class Decided(NamedTuple):
    """A product's stock after one decision."""

    cause: str
    on_hand: int
    reserved: int


class Facts:
    """Topics and tables after the run; outgoing events are deduplicated by id."""

    def __init__(self, deployment: Deployment) -> None:
        self.ledger = deployment.query("SELECT * FROM inventory_transactions ORDER BY product_id, sequence")
        self.stock = {row["product_id"]: row for row in deployment.query("SELECT * FROM inventory")}
        self.outcomes = _once(deployment.read("inventory.reservations"))
        self.alerts = _once(deployment.read("inventory.low_stock"))
        self.recoveries = _once(deployment.read("inventory.stock_recovered"))
        self.births = {
            (message.key or b"").decode(): (dict(message.headers)["ce_id"] or b"").decode()
            for message in deployment.read("product.created")
        }

    def by_product(self) -> dict[str, list[Any]]:
        """Return the ledger by product, in its sequence."""
        grouped = itertools.groupby(self.ledger, key=lambda entry: entry["product_id"])
        return {product: list(entries) for product, entries in grouped}

    def outcomes_by_order(self, kind: str) -> dict[str, list[dict[str, Any]]]:
        """Return the outcomes of one kind by order."""
        by_order: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for outcome in self.outcomes:
            if outcome["type"] == f"inventory.reservation.{kind}" and "order_id" in outcome:
                by_order[outcome["order_id"]].append(outcome)
        return by_order

    def refused(self) -> dict[str, dict[str, Any]]:
        """Return the refusal of every refused order: `rejected`, or `shortfall` where it was paid before."""
        refusals = [
            *itertools.chain(*self.outcomes_by_order("rejected").values()),
            *(
                one
                for some in self.outcomes_by_order("shortfall").values()
                for one in some
                if one["reason"] == "insufficient_stock"
            ),
        ]
        by_order = {refusal["order_id"]: refusal for refusal in refusals}
        assert len(refusals) == len(by_order)
        return by_order


def _once(messages: Iterable[ConsumedRecord]) -> list[dict[str, Any]]:
    """Return the bodies in their order, without repeats of an id, which must say the same."""
    bodies: dict[str, dict[str, Any]] = {}
    for message in messages:
        assert message.value is not None
        body = json.loads(message.value)
        assert bodies.setdefault(body["event_id"], body) == body
    return list(bodies.values())


@pytest.fixture(params=["real", "generated"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which file: the real one if it is present, and a generated one always."""
    if request.param == "real" and not REAL_FILE.exists():
        pytest.skip(f"{REAL_FILE.name} is not there; the generated month runs the same test")
    return str(request.param)


@pytest.fixture
def file(kind: str, tmp_path: Path) -> Path:
    """The file to publish."""
    if kind == "real":
        return REAL_FILE
    months.generate(tmp_path / "month.csv", seed=2010)
    return tmp_path / "month.csv"


def test_a_month_with_stock_enough(
    deployment: Deployment, file: Path, kind: str, measured: Callable[[str], None]
) -> None:
    """Nothing is refused, every sum equals the file's, and publishing the file again changes nothing."""
    month = months.read(file)
    workers = _run(deployment, file, month, measured, f"{kind} month, stock enough")
    facts = Facts(deployment)
    assert not facts.refused()
    assert not [outcome for outcome in facts.outcomes if outcome["type"].endswith((".cart_shortage", ".expired"))]
    initial = dict(month.needed)
    _check_everything(deployment, facts, month, initial)

    before = _snapshot(deployment)
    _publish(deployment, file)
    deployment.settle(*TOPICS_IN)
    assert before == _snapshot(deployment)
    counts = sum((Counter(worker.events()) for worker in workers), Counter())
    assert counts["duplicate"] >= month.events
    assert 2 * month.events == sum(counts.values()), "no record was counted more often than it was published"
    assert [0, 0] == [worker.stop() for worker in workers]


def test_a_month_with_scarce_stock(
    deployment: Deployment, file: Path, kind: str, measured: Callable[[str], None]
) -> None:
    """Orders are refused only for lack of stock, and every number follows from which ones were."""
    month = months.read(file)
    workers = _run(
        deployment, file, month, measured, f"{kind} month, scarce stock", "--initial-stock", str(SCARCE[kind])
    )
    facts = Facts(deployment)
    assert len(month.orders) / 20 < len(facts.refused()) < len(month.orders), "the run is about refusals"
    _check_everything(deployment, facts, month, dict.fromkeys(month.needed, SCARCE[kind]))
    assert [0, 0] == [worker.stop() for worker in workers]


def _run(
    deployment: Deployment, file: Path, month: Month, measured: Callable[[str], None], name: str, *options: str
) -> list[Worker]:
    """Publish the file to two workers, wait until all is applied and published, and report the rate."""
    workers = [deployment.start_worker(), deployment.start_worker()]
    for worker in workers:
        worker.wait_ready()
    started = time.monotonic()
    summary = _publish(deployment, file, *options)
    assert month.events == summary["events"]
    deployment.settle(*TOPICS_IN)
    seconds = time.monotonic() - started
    entries = deployment.value("SELECT count(*) FROM inventory_transactions")
    measured(
        f"{name}, two workers: {month.events:,} events in {seconds:.1f} s, {month.events / seconds:,.0f} events/s, "
        f"{entries / seconds:,.0f} ledger entries/s (publishing took {summary['seconds']:.1f} s of it)"
    )
    return workers


def _publish(deployment: Deployment, file: Path, *options: str) -> dict[str, Any]:
    printed = deployment.must("publish", str(file), "--json", "--wait-timeout", "30", *options)
    summary: dict[str, Any] = json.loads(printed)
    return summary


def _snapshot(deployment: Deployment) -> list[Any]:
    """Return checksums of every table."""
    return [
        deployment.query(f"SELECT count(*), md5(string_agg(t::text, ',' ORDER BY {key})) FROM {table} t")  # noqa: S608
        for table, key in (
            ("inventory", "product_id"),
            ("inventory_transactions", "product_id, sequence"),
            ("orders", "order_id"),
            ("carts", "cart_id"),
            ("inbox", "event_id, source"),
            ("outbox", "position"),
            ("parked_events", "event_id"),
            ("dead_letters", "position"),
        )
    ]


# --- the checks -----------------------------------------------------------------------------------


def _check_everything(deployment: Deployment, facts: Facts, month: Month, initial: dict[str, int]) -> None:
    _check_nothing_is_left(deployment, month)
    _check_ledger(facts)
    _check_outcomes(facts, month)
    _check_sums(facts, month, initial)
    _check_refusals(facts, month)
    _check_edges(facts)
    audit = deployment.must("audit")
    assert "audit: ok" in audit, audit


def _check_nothing_is_left(deployment: Deployment, month: Month) -> None:
    """Every event is in the inbox, none is parked, none was dead-lettered."""
    assert month.events == deployment.value("SELECT count(*) FROM inbox")
    assert deployment.value("SELECT count(*) FROM parked_events") == 0
    assert deployment.value("SELECT count(*) FROM dead_letters") == 0
    assert deployment.value("SELECT count(*) FROM inbox WHERE outcome = 'parked'") == 0


def _check_ledger(facts: Facts) -> None:
    """Sequences start at 1 without holes, each entry continues the one before, and the last equals the stock."""
    ends: dict[str, tuple[int, int, int]] = {}
    for entry in facts.ledger:
        sequence, on_hand, reserved = ends.get(entry["product_id"], (0, 0, 0))
        before = (entry["sequence"], entry["on_hand_before"], entry["reserved_before"])
        assert (sequence + 1, on_hand, reserved) == before
        change = (entry["on_hand_after"] - on_hand, entry["reserved_after"] - reserved)
        quantity = entry["quantity"]
        if entry["type"] == "ADJUST":
            assert change in {(quantity, 0), (-quantity, 0)}
        else:
            assert tuple(side * quantity for side in MOVES[entry["type"]]) == change
        assert 0 <= entry["reserved_after"] <= entry["on_hand_after"]
        ends[entry["product_id"]] = (sequence + 1, entry["on_hand_after"], entry["reserved_after"])
    assert {product: (row["on_hand"], row["reserved"]) for product, row in facts.stock.items()} == {
        product: ends.get(product, (0, 0, 0))[1:] for product in facts.stock
    }


def _check_outcomes(facts: Facts, month: Month) -> None:
    """Each order has each of its outcomes once, and the outcomes are consistent."""
    published: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for outcome in facts.outcomes:
        if "order_id" in outcome:
            published[outcome["order_id"]][outcome["type"].removeprefix("inventory.reservation.")] += 1
    assert month.orders.keys() == published.keys()
    refused = facts.refused()
    wrong = {
        order: outcomes
        for order, outcomes in published.items()
        if not _fits(outcomes, refused=order in refused, cancelled=order in month.cancelled, month=month, order=order)
    }
    assert wrong == {}
    for order, outcomes in facts.outcomes_by_order("deducted").items():
        assert month.orders[order] == {line["product_id"]: line["quantity"] for line in outcomes[0]["lines"]}


def _fits(outcomes: Counter[str], *, refused: bool, cancelled: bool, month: Month, order: str) -> bool:
    """Tell whether an order may have these outcomes; its payment may be read before it or after its cancellation."""
    if refused:
        allowed = [Counter(rejected=1, shortfall=1), Counter(shortfall=1)]
        return outcomes in ([one + Counter(released=1) for one in allowed] if cancelled else allowed)
    outcomes = outcomes - Counter(reserved=1)
    if cancelled:
        return outcomes in (
            Counter(deducted=1, restocked=1),
            Counter(released=1, shortfall=1),
            Counter(released=1),
        )
    return outcomes == Counter(deducted=1, restocked=len(month.returns[order]))


def _check_sums(facts: Facts, month: Month, initial: dict[str, int]) -> None:
    """Per product, sales, returns and corrections equal the file's, less what was refused."""
    deducted = facts.outcomes_by_order("deducted").keys()
    released = facts.outcomes_by_order("released").keys()
    assert month.orders.keys() - facts.refused().keys() - (released & month.cancelled) == deducted
    sold = months.total([month.orders[order] for order in deducted])
    back = months.total([month.returned(order) for order in deducted])
    booked: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry in facts.ledger:
        up = entry["on_hand_after"] > entry["on_hand_before"]
        sort = f"{entry['type']} {'up' if up else 'down'} {entry['reference_type']}"
        booked[sort][entry["product_id"]] += entry["quantity"]
    found = months.total([{product: quantity} for _, product, quantity in month.found])
    lost = months.total([{product: quantity} for _, product, quantity in month.lost]) - _refused_losses(facts, month)
    assert Counter(initial) == booked.pop("IN up IMPORT")
    assert +sold == booked.pop("OUT down ORDER")
    assert +back == booked.pop("IN up ORDER")
    assert +found == booked.pop("ADJUST up MANUAL", Counter())
    assert +lost == booked.pop("ADJUST down MANUAL", Counter())
    assert {sort.split(maxsplit=1)[0] for sort in booked} == {"RESERVE", "RELEASE"}
    assert month.needed.keys() == facts.stock.keys()
    for product, row in facts.stock.items():
        expected = initial[product] - sold[product] + back[product] + found[product] - lost[product]
        assert expected == row["on_hand"], product
        assert row["available"] == row["on_hand"] - row["reserved"]


def _refused_losses(facts: Facts, month: Month) -> Counter[str]:
    """Return the refused write-offs; each must have been impossible at some time."""
    booked = Counter(
        (entry["reason"].split()[-1], entry["product_id"], entry["quantity"])
        for entry in facts.ledger
        if entry["type"] == "ADJUST" and entry["on_hand_after"] < entry["on_hand_before"]
    )
    refused = Counter(month.lost) - booked
    assert booked + refused == Counter(month.lost)
    lowest: dict[str, int] = {}
    for entry in facts.ledger:
        available = entry["on_hand_after"] - entry["reserved_after"]
        lowest[entry["product_id"]] = min(lowest.get(entry["product_id"], available), available)
    for _, product, quantity in refused:
        assert quantity > lowest.get(product, 0), f"{quantity} of {product} could always be written off"
    return months.total([{product: quantity} for _, product, quantity in refused.elements()])


def _check_refusals(facts: Facts, month: Month) -> None:
    """A refusal names only short lines, with the file's quantity and an availability that occurred at some time."""
    claims: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
    for order, refusal in facts.refused().items():
        assert refusal["lines"]
        assert refusal["reason"] == "insufficient_stock"
        for line in refusal["lines"]:
            assert month.orders[order][line["product_id"]] == line["requested"]
            assert line["available"] < line["requested"]
            claims[line["product_id"]].add((order, line["available"]))
    carts = {f"cart-{order}": order for order in facts.refused()}
    still_held = 0
    for product, entries in facts.by_product().items():
        # An order may also use what its own cart holds.
        held: Counter[str] = Counter()
        unseen = claims.pop(product, set())
        available = 0
        for entry in entries:
            unseen = {(order, seen) for order, seen in unseen if available + held[order] != seen}
            available = entry["on_hand_after"] - entry["reserved_after"]
            if entry["reference_id"] in carts:
                sign = 1 if entry["type"] == "RESERVE" else -1
                held[carts[entry["reference_id"]]] += sign * entry["quantity"]
        unseen = {(order, seen) for order, seen in unseen if available + held[order] != seen}
        assert unseen == set(), product
        still_held += held.total()
    assert {available for some in claims.values() for _, available in some} <= {0}, "these products never had stock"
    assert sum(row["reserved"] for row in facts.stock.values()) == still_held


def _check_edges(facts: Facts) -> None:
    """Alerts are exactly the edges that follow from the ledger: none missing, none repeated."""
    published: defaultdict[str, list[Edge]] = defaultdict(list)
    for body in (*facts.alerts, *facts.recoveries):
        assert body["available"] == body["on_hand"] - body["reserved"]
        assert body["threshold"] == THRESHOLD
        edge = Edge(body["version"], body["severity"], body["on_hand"], body["reserved"], body["caused_by"])
        published[body["product_id"]].append(edge)
    ledger = facts.by_product()
    wrong = {}
    for product, row in facts.stock.items():
        edges = sorted(published.pop(product, []))
        possible = list(_possible_edges(facts.births[product], ledger.get(product, []), row["version"]))
        if edges not in possible:
            wrong[product] = (edges, possible)
    assert wrong == {}
    assert published == {}


def _possible_edges(birth: str, entries: Sequence[Any], version: int) -> Iterator[list[Edge]]:
    """Replay a product's ledger decision by decision; each edge is judged on the net of one decision.

    A decision is a run of entries with the same cause. Only a refund that waited for its order's payment is decided
    together with it, under its own cause; the version counts the decisions and so gives the number of such refunds.
    """
    runs = [list(run) for _, run in itertools.groupby(entries, key=lambda entry: entry["event_id"])]
    joinable = [
        place
        for place, (before, run) in enumerate(itertools.pairwise(runs), start=1)
        if run[0]["type"] == "IN"
        and before[-1]["type"] in {"OUT", "IN"}
        and run[0]["reference_id"] == before[-1]["reference_id"]
    ]
    # A product created without stock has a first decision without an entry.
    born = [] if runs and runs[0][0]["event_id"] == birth else [Decided(birth, 0, 0)]
    for joined in itertools.combinations(joinable, len(born) + len(runs) - version):
        decided = list(born)
        for place, run in enumerate(runs):
            cause = decided.pop().cause if place in joined else run[0]["event_id"]
            decided.append(Decided(cause, run[-1]["on_hand_after"], run[-1]["reserved_after"]))
        yield list(_edges(decided))


def _edges(decided: Iterable[Decided]) -> Iterator[Edge]:
    """Yield the edges: a status worse than any published since the last recovery, and the recovery itself."""
    severity = {"ok": 0, "low": 1, "out": 2}
    worst = "ok"
    for version, (cause, on_hand, reserved) in enumerate(decided, start=1):
        available = on_hand - reserved
        status = "out" if available == 0 else "low" if available <= THRESHOLD else "ok"
        if status == worst or (status != "ok" and severity[status] < severity[worst]):
            continue
        worst = status
        yield Edge(version, status, on_hand, reserved, cause)
