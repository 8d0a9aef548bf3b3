"""Workers are killed, stopped and added under traffic; no event is lost or applied twice."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.acceptance.deployment import Deployment, wait_until

TOPICS_IN = ("order.created", "payment.succeeded", "order.cancelled", "product.created")
PRODUCTS = tuple(f"product-{number}" for number in range(25))
STOCK = 100_000
ORDERS_PER_SECOND = 150
# Kafka notices a killed worker only after this; the minimum that brokers allow.
SESSION_TIMEOUT_MS = 6000
SEED = 4
FATES = ("paid", "paid", "paid", "cancelled", "paid and cancelled", "open")


class Shop:
    """Places orders until it is closed, and remembers what it published."""

    def __init__(self, deployment: Deployment) -> None:
        self.orders: dict[str, tuple[str, dict[str, int]]] = {}
        self.events = 0
        self.failed: list[str] = []
        self._prefix = deployment.prefix
        self._producer: Any = deployment.producer()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._place_orders, daemon=True)
        self._draw = random.Random(SEED)  # noqa: S311 - test data

    def start(self) -> None:
        """Start placing orders."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and wait until Kafka has acknowledged everything."""
        self._closing.set()
        self._thread.join()
        assert self._producer.flush(30) == 0
        assert self.failed == []

    def publish(self, topic: str, key: str, name: str, **data: object) -> None:
        """Publish an event, sometimes twice."""
        body = json.dumps({"event_id": name, "occurred_at": datetime.now(UTC).isoformat(), **data})
        self.events += 1
        for _ in range(1 + (self._draw.random() < 0.1)):
            self._producer.produce(self._prefix + topic, key=key, value=body, on_delivery=self._delivered)
        self._producer.poll(0)

    def _place_orders(self) -> None:
        while not self._closing.wait(1 / ORDERS_PER_SECOND):
            self._place(f"order-{len(self.orders)}")

    def _place(self, order: str) -> None:
        lines = {product: self._draw.randint(1, 5) for product in self._draw.sample(PRODUCTS, self._draw.randint(1, 4))}
        fate = self._draw.choice(FATES)
        self.orders[order] = (fate, lines)
        items = [{"product_id": product, "quantity": quantity} for product, quantity in lines.items()]
        self.publish("order.created", order, f"{order}-created", order_id=order, items=items)
        if "paid" in fate:
            self.publish("payment.succeeded", order, f"{order}-paid", order_id=order)
        if "cancelled" in fate:
            self.publish("order.cancelled", order, f"{order}-cancelled", order_id=order)

    def _delivered(self, error: object, _message: object) -> None:
        if error is not None:
            self.failed.append(str(error))


def test_workers_come_and_go(deployment: Deployment, measured: Callable[[str], None]) -> None:
    """Of three workers one is killed and one stopped, a fourth joins; stock and ledger match the orders."""
    first, second, third = (_start(deployment) for _ in range(3))
    for worker in (first, second, third):
        worker.wait_ready()
    shop = Shop(deployment)
    for product in PRODUCTS:
        shop.publish("product.created", product, product, product_id=product, initial_quantity=STOCK)
    wait_until(lambda: _applied(deployment, 0) == len(PRODUCTS), 30, "the products are there", deployment.describe)

    shop.start()
    try:
        _wait_for_events(deployment, 300)
        first.kill()
        _wait_for_events(deployment, 300)
        assert second.stop() == 0
        _wait_for_events(deployment, 300)
        fourth = _start(deployment).wait_ready()
        _wait_for_events(deployment, 300)
    finally:
        shop.close()
    ended = time.monotonic()
    deployment.settle(*TOPICS_IN)
    measured(
        f"three workers, one killed, one stopped, one joined: {shop.events:,} events, "
        f"all applied {time.monotonic() - ended:.1f} s after the last"
    )
    _check_state(deployment, shop)
    assert [0, 0] == [third.stop(), fourth.stop()]


def _start(deployment: Deployment) -> Any:
    return deployment.start_worker(
        INVENTORY_KAFKA_SESSION_TIMEOUT_MS=str(SESSION_TIMEOUT_MS),
        INVENTORY_KAFKA_HEARTBEAT_INTERVAL_MS="1000",
        # Small batches make it likelier that the kill hits a running one.
        INVENTORY_BATCH_MAX_RECORDS="50",
    )


def _applied(deployment: Deployment, more_than: int) -> int:
    return int(deployment.value("SELECT count(*) FROM inbox")) - more_than


def _wait_for_events(deployment: Deployment, events: int) -> None:
    """Wait until that many more events are applied."""
    before = _applied(deployment, 0)
    wait_until(lambda: _applied(deployment, before) >= events, 60, f"{events} more events", deployment.describe)


def _check_state(deployment: Deployment, shop: Shop) -> None:
    """Every event is in the inbox once, every order has its outcome once, and the stock follows from them."""
    assert shop.events == deployment.value("SELECT count(*) FROM inbox")
    assert deployment.value("SELECT count(*) FROM parked_events") == 0
    assert deployment.value("SELECT count(*) FROM dead_letters") == 0

    gone: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for fate, lines in shop.orders.values():
        if fate == "paid":
            gone.update(lines)
        elif fate == "open":
            held.update(lines)
    rows = deployment.query("SELECT product_id, on_hand, reserved FROM inventory")
    assert {product: (STOCK - gone[product], held[product]) for product in PRODUCTS} == {
        row["product_id"]: (row["on_hand"], row["reserved"]) for row in rows
    }

    moved: dict[str, Counter[tuple[str, str, int]]] = {order: Counter() for order in shop.orders}
    for row in deployment.query("SELECT * FROM inventory_transactions WHERE reference_type = 'ORDER'"):
        moved[row["reference_id"]][row["type"], row["product_id"], row["quantity"]] += 1
    assert {order for order, entries in moved.items() if set(entries.values()) - {1}} == set()
    wrong = {
        order: (fate, kinds)
        for order, (fate, lines) in shop.orders.items()
        if (kinds := Counter(kind for kind, _, _ in moved[order])) not in _possible(fate, len(lines))
    }
    assert wrong == {}

    ids = Counter(json.loads(message.value or b"")["event_id"] for message in deployment.read("inventory.reservations"))
    assert {str(row[0]) for row in deployment.query("SELECT id FROM outbox WHERE type LIKE '%reservation%'")} == set(
        ids
    )
    published = Counter(row[0] for row in deployment.query("SELECT type FROM outbox"))
    fates = Counter(fate for fate, _ in shop.orders.values())
    assert published["inventory.reservation.deducted"] - published["inventory.reservation.restocked"] == fates["paid"]
    audit = deployment.must("audit")
    assert "audit: ok" in audit, audit


def _possible(fate: str, lines: int) -> list[Counter[str]]:
    """Return the ledger entries that an order may have, given that topics have no order between each other."""
    reserved = Counter(RESERVE=lines)
    deducted = reserved + Counter(OUT=lines)
    released = [Counter(), reserved + Counter(RELEASE=lines)]
    return {
        "open": [reserved],
        "paid": [deducted],
        "cancelled": released,
        "paid and cancelled": [*released, deducted + Counter(IN=lines)],
    }[fate]
