"""Tasks for the fold of a batch, and a fold whose state goes on from batch to batch."""

from datetime import datetime, timedelta

from domain.commands import (
    AdjustStock,
    CancelOrder,
    CausedCommand,
    CreateOrder,
    CreateProduct,
    PayOrder,
    RefundOrder,
    UpdateCart,
)
from domain.due import DueHolds
from domain.model import Cause, Decision, Operation, Policy, State
from engine.judge import Changes, judge
from engine.tasks import EventTask, RequestTask, Task, TaskDisposition
from storage.answers import Answer
from storage.dead_letters import StoredRecord
from tests.unit.domain_cases import at

APPLIED, DUPLICATE, REFUSED, PARKED, CONFLICT, DEAD_LETTERED = TaskDisposition
NOW = at(500)
POLICY = Policy(parked_event_ttl=timedelta(hours=7))


def cause(event_id: str, minutes: float = 0) -> Cause:
    """Return the cause of an event of the shop."""
    return Cause("shop", event_id, at(minutes))


def record(value: str) -> StoredRecord:
    """Return the record that carried an event."""
    return StoredRecord("a.topic", 3, 14, b"key", value.encode(), (), at(0))


def event(
    command: CreateOrder | PayOrder | CancelOrder | RefundOrder | UpdateCart | CreateProduct | AdjustStock,
    digest: bytes = b"1",
) -> EventTask:
    """Return an event that means `command`."""
    return EventTask(command, digest, record(command.cause.event_id), f"type-{command.cause.event_id}")


def created(order_id: str, quantity: int = 1, minutes: float = 0, *, event_id: str | None = None) -> EventTask:
    """Return an order of product `p`."""
    return event(CreateOrder(cause(event_id or f"created-{order_id}", minutes), order_id, {"p": quantity}))


def paid(order_id: str = "o") -> EventTask:
    """Return an order's payment."""
    return event(PayOrder(cause(f"paid-{order_id}", 1), order_id))


def adjusted(quantity: int, digest: bytes = b"1", event_id: str = "add") -> EventTask:
    """Return an addition to the stock of `p`."""
    return event(AdjustStock(cause(event_id), "p", Operation.ADD, quantity), digest)


class Fold:
    """Batches that are decided one after another, on a shop with 10 units of `p`."""

    def __init__(self) -> None:
        self.state = State({}, {}, {})
        self.known: dict[tuple[str, str], bytes] = {}
        self.batch(event(CreateProduct(cause("new"), "p", 10, 0)))

    def batch(self, *tasks: Task, due_before: datetime | None = None) -> Changes:
        """Decide a batch."""
        due = None if due_before is None else DueHolds(self.state, due_before, dict.fromkeys(self.state.products))
        return judge(tasks, self.state, self.known, due, POLICY, NOW)

    def stock(self) -> tuple[int, int]:
        """Return (on hand, reserved) of `p`."""
        product = self.state.products["p"]
        return product.on_hand, product.reserved


def dispositions(changes: Changes) -> list[TaskDisposition]:
    """Return what became of each task."""
    return [verdict.disposition for verdict in changes.verdicts]


def request(command: CausedCommand, digest: bytes = b"1") -> RequestTask:
    """Return a request that is answered with what was decided and the stock that it left."""

    def answer(decision: Decision, state: State) -> Answer:
        product = state.products["p"]
        return Answer(200, (), f"{decision.disposition}: {product.on_hand}, {product.reserved}".encode())

    return RequestTask(command, digest, answer)


ADD = AdjustStock(Cause("api", "add", at(0)), "p", Operation.ADD, 5)
KEY = ("api", "add")
ANSWER = Answer(200, (), b"applied: 15, 0")
