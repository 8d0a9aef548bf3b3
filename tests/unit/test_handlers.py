"""Handlers: one module per topic, named after it, and the command that each event becomes."""

import json
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from domain import commands
from domain.commands import AdjustStock, CancelOrder, CreateOrder, CreateProduct, PayOrder, RefundOrder, UpdateCart
from domain.model import Cause, Operation
from schemas.envelope import decode
from schemas.topics import TOPICS_IN
from workers import handlers
from workers.handlers import command_for

AT = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
CAUSE = Cause("shop", "1", AT)


def _command(topic: str, **data: Any) -> commands.Command:
    body = data | {"event_id": "1", "source": "shop", "occurred_at": AT.isoformat()}
    return command_for(decode(topic, json.dumps(body).encode(), (), None))


@pytest.mark.parametrize("topic", TOPICS_IN)
def test_a_topics_handler_is_the_module_with_its_name(topic: str) -> None:
    """`order.created` is handled in `order_created`, whose docstring states the rule."""
    module = import_module(f"workers.handlers.{topic.replace('.', '_')}")
    assert callable(module.handle)
    assert (module.__doc__ or "").startswith(f"`{topic}`: ")


def test_there_is_no_handler_without_a_topic() -> None:
    """Every module but the shared one handles a topic."""
    folder = Path(handlers.__file__).parent
    names = {path.stem for path in folder.glob("*.py")} - {"__init__", "lines"}
    assert {topic.replace(".", "_") for topic in TOPICS_IN} == names


@pytest.mark.parametrize("topic", TOPICS_IN)
def test_every_contracts_example_becomes_a_command(topic: str) -> None:
    """Each published example becomes a command, whose cause is the event's identity and time."""
    extra = TOPICS_IN[topic].contract.model_config["json_schema_extra"]
    assert isinstance(extra, dict)
    examples: Any = extra["examples"]
    for example in examples:
        command = _command(topic, **example)
        assert CAUSE == getattr(command, "cause", None)


TWICE = [{"product_id": "p", "quantity": 1}, {"product_id": "q", "quantity": 5}, {"product_id": "p", "quantity": 2}]
SUMMED = {"p": 3, "q": 5}


@pytest.mark.parametrize(
    ("topic", "data", "expected"),
    [
        ("cart.updated", {"cart_id": "c", "items": TWICE}, UpdateCart(CAUSE, "c", SUMMED)),
        (
            "cart.updated",
            {"cart_id": "c", "user_id": "u", "version": 0, "items": []},
            UpdateCart(CAUSE, "c", {}, "u", 0),
        ),
        (
            "order.created",
            {"order_id": "o", "cart_id": "c", "user_id": "u", "items": TWICE},
            CreateOrder(CAUSE, "o", SUMMED, "c", "u"),
        ),
        ("payment.succeeded", {"order_id": "o", "payment_id": "x", "amount": 3}, PayOrder(CAUSE, "o", "x")),
        ("order.cancelled", {"order_id": "o", "reason": "no"}, CancelOrder(CAUSE, "o", None, "no")),
        ("order.cancelled", {"order_id": "o", "items": TWICE}, CancelOrder(CAUSE, "o", SUMMED)),
        (
            "order.cancelled",
            {"order_id": "o", "cancellation_id": "c", "items": TWICE},
            CancelOrder(CAUSE, "o", SUMMED, None, "c"),
        ),
        (
            "payment.refunded",
            {"order_id": "o", "refund_id": "r", "items": TWICE},
            RefundOrder(CAUSE, "o", "r", SUMMED, restock=True),
        ),
        (
            "payment.refunded",
            {"order_id": "o", "refund_id": "r", "items": TWICE, "restock": False},
            RefundOrder(CAUSE, "o", "r", SUMMED, restock=False),
        ),
        ("payment.refunded", {"order_id": "o", "refund_id": "r"}, RefundOrder(CAUSE, "o", "r", {}, restock=True)),
        (
            "payment.refunded",
            {"order_id": "o", "refund_id": "r", "items": TWICE, "returned": True},
            RefundOrder(CAUSE, "o", "r", SUMMED, restock=True, returned=True),
        ),
        ("product.created", {"product_id": "p"}, CreateProduct(CAUSE, "p", 0, None)),
        (
            "product.created",
            {"product_id": "p", "initial_quantity": 7, "low_stock_threshold": 0},
            CreateProduct(CAUSE, "p", 7, 0),
        ),
        (
            "inventory.adjustment",
            {
                "product_id": "p",
                "operation": "SET",
                "quantity": 0,
                "reason": "count",
                "operator": "kim",
                "expected_version": 4,
            },
            AdjustStock(CAUSE, "p", Operation.SET, 0, None, "count", "kim", 4),
        ),
        (
            "inventory.adjustment",
            {"product_id": "p", "low_stock_threshold": 0},
            AdjustStock(CAUSE, "p", None, 0, 0),
        ),
    ],
)
def test_an_event_becomes_its_command(topic: str, data: dict[str, Any], expected: commands.Command) -> None:
    """Every field arrives in the command; repeated lines are summed, in the order of their first occurrence."""
    command = _command(topic, **data)
    assert expected == command
    lines = getattr(command, "lines", None)
    assert lines is None or list(lines) in ([], ["p", "q"])
