"""A small shop with every kind of ledger entry, order and cart, for tests that audit it or corrupt it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from domain.commands import (
    AdjustStock,
    CancelOrder,
    CausedCommand,
    CreateOrder,
    CreateProduct,
    ExpireOrder,
    PayOrder,
    RefundOrder,
    UpdateCart,
)
from domain.model import Cause, Operation, Policy
from engine.execute import execute
from engine.tasks import BatchResult, EventTask, ExpiryTask, Task, TaskDisposition
from storage.database import Pool
from storage.dead_letters import StoredRecord

POLICY = Policy()
OPENING = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


def cause(event_id: str, minutes: float = 0) -> Cause:
    """Return the cause of a command, so many minutes after the shop opened."""
    return Cause("test", event_id, OPENING + timedelta(minutes=minutes))


def record(event_id: str) -> StoredRecord:
    """Return the Kafka record that could have brought an event."""
    return StoredRecord("payment.succeeded", 0, 0, None, event_id.encode(), (), None)


async def apply(pool: Pool, *commands: CausedCommand | ExpireOrder, now: datetime | None = None) -> BatchResult:
    """Apply the commands in one transaction."""
    tasks: list[Task] = [
        ExpiryTask(command) if isinstance(command, ExpireOrder) else EventTask(command, b"", record("r"), "test")
        for command in commands
    ]
    return await execute(pool, tasks, POLICY, now or datetime.now(UTC))


def created(order_id: str, lines: Mapping[str, int], *, minutes: float = 0, cart_id: str | None = None) -> CreateOrder:
    """Return the command that an `order.created` of these lines means."""
    return CreateOrder(cause(f"created:{order_id}", minutes), order_id, lines, cart_id)


def paid(order_id: str, minutes: float = 1) -> PayOrder:
    """Return the command that an order's `payment.succeeded` means."""
    return PayOrder(cause(f"paid:{order_id}", minutes), order_id)


def cancelled(order_id: str, minutes: float = 2) -> CancelOrder:
    """Return the command that an order's `order.cancelled` means."""
    return CancelOrder(cause(f"cancelled:{order_id}", minutes), order_id)


def refunded(order_id: str, lines: Mapping[str, int], *, restock: bool) -> RefundOrder:
    """Return the command that an order's `payment.refunded` means."""
    refund_id = f"{order_id}:{'back' if restock else 'kept'}"
    return RefundOrder(cause(f"refunded:{refund_id}", 3), order_id, refund_id, lines, restock=restock)


async def fill(pool: Pool) -> None:
    """Let the shop live a little: every status of orders and carts, every type of entry, alerts both ways."""
    expired_at = OPENING + timedelta(hours=2)
    batches: Sequence[Sequence[CausedCommand | ExpireOrder]] = (
        (
            CreateProduct(cause("a"), "apple", 100, 10),
            CreateProduct(cause("b"), "bread", 20, 5),
            CreateProduct(cause("c"), "cheese", 3, 5),
            CreateProduct(cause("d"), "dust", 0, 0),
        ),
        (
            UpdateCart(cause("k1"), "cart-active", {"apple": 2, "bread": 1}),
            UpdateCart(cause("k2"), "cart-converted", {"apple": 3, "cheese": 1}),
            UpdateCart(cause("k3"), "cart-emptied", {"apple": 1}),
            UpdateCart(cause("k4", 1), "cart-emptied", {}),
            created("reserved", {"apple": 4, "bread": 2}),
            created("deducted", {"apple": 3, "cheese": 1}, minutes=1, cart_id="cart-converted"),
            created("rejected", {"apple": 1, "cheese": 99}),
            created("expired", {"apple": 5}),
            created("late", {"bread": 2}),
            created("withheld", {"bread": 3, "apple": 1}),
            created("part", {"apple": 6, "bread": 1}),
        ),
        (
            paid("deducted"),
            paid("withheld"),
            paid("part"),
            refunded("part", {"apple": 2}, restock=True),
            CancelOrder(cause("part-cancelled", 4), "part", {"apple": 1}),
            cancelled("withheld"),
            refunded("withheld", {"bread": 2}, restock=False),
            paid("early"),
            cancelled("early"),
            paid("waiting"),
        ),
        (
            ExpireOrder("expired", expired_at),
            ExpireOrder("late", expired_at),
            paid("late", 121),
            created("early", {"apple": 7}, minutes=130),
        ),
        (
            AdjustStock(cause("low"), "bread", Operation.SUBTRACT, 8, reason="mould", operator="ann"),
            AdjustStock(cause("ok"), "bread", Operation.ADD, 30, reason="baked", operator="ann"),
            AdjustStock(cause("set"), "apple", Operation.SET, 60, reason="counted", operator="ann"),
        ),
    )
    for commands in batches:
        result = await apply(pool, *commands)
        assert not [verdict for verdict in result.verdicts if verdict.disposition is TaskDisposition.DEAD_LETTERED]
