"""What a user would otherwise write: one FastStream handler call, one ORM session and one transaction per event.

It uses the same rules (`domain.decide`) and writes the same rows: inbox, ledger, outbox, orders and carts. It commits
its offset after the transaction. What it leaves out makes it faster: dead letters, the table of parked events, expiry,
watermarks and a relay for its outbox.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from domain.commands import Command
from domain.decide import decide, evolve
from domain.lines import Line
from domain.model import (
    Cart,
    CartStatus,
    Cause,
    Decision,
    Fact,
    FactKind,
    Order,
    OrderStatus,
    Policy,
    Product,
    State,
    StockStatus,
)
from engine.outbox_rows import outbox_row
from inventory.settings import Settings, load_settings
from schemas.topics import TOPICS_IN
from storage import tables
from storage.database import driver_url
from workers.handlers import (
    cart_updated,
    inventory_adjustment,
    order_cancelled,
    order_created,
    payment_refunded,
    payment_succeeded,
    product_created,
)

_HANDLERS = {
    "cart.updated": cart_updated,
    "order.created": order_created,
    "payment.succeeded": payment_succeeded,
    "order.cancelled": order_cancelled,
    "payment.refunded": payment_refunded,
    "product.created": product_created,
    "inventory.adjustment": inventory_adjustment,
}


class Base(DeclarativeBase):
    """The tables of the migrations, as classes."""

    metadata = tables.metadata


class StockRow(Base):
    """A product's stock."""

    __table__ = tables.inventory


class LedgerRow(Base):
    """A movement of stock."""

    __table__ = tables.inventory_transactions


class OrderRow(Base):
    """An order's facts."""

    __table__ = tables.orders


class CartRow(Base):
    """A cart's hold."""

    __table__ = tables.carts


class InboxRow(Base):
    """An event that was applied or refused."""

    __table__ = tables.inbox


class OutboxRow(Base):
    """An event to publish."""

    __table__ = tables.outbox


def main() -> None:
    """Run until stopped."""
    settings = load_settings()
    broker = KafkaBroker(settings.kafka_brokers, logger=None)
    engine = create_async_engine(driver_url(settings.database_url), pool_size=10)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    for topic in TOPICS_IN:
        _subscribe(broker, topic, sessions, settings)
    # As FastStream's own command does.
    uvloop.run(FastStream(broker, logger=None).run())


def _subscribe(broker: KafkaBroker, topic: str, sessions: async_sessionmaker[AsyncSession], settings: Settings) -> None:
    contract, handler = TOPICS_IN[topic].contract, _HANDLERS[topic]
    policy = Policy(settings.cart_reservation_ttl, settings.order_reservation_ttl, settings.default_low_stock_threshold)

    @broker.subscriber(
        settings.kafka_topic_prefix + topic,
        group_id=settings.kafka_group_id,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        # At least once: committed after the transaction, and the inbox deduplicates redeliveries.
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )
    async def handle(event: contract, message: KafkaMessage) -> None:  # type: ignore[valid-type] # one body for all topics
        headers = message.headers
        cause = Cause(headers["ce_source"], headers["ce_id"], datetime.fromisoformat(headers["ce_time"]))
        async with sessions() as session, session.begin():
            await apply(session, handler.handle(event, cause), cause, message.body, policy)


async def apply(session: AsyncSession, command: Command, cause: Cause, body: bytes, policy: Policy) -> None:
    """Apply one event: inbox, load, decide, save."""
    if await session.get(InboxRow, (cause.event_id, cause.source)) is not None:
        return
    now = datetime.now(UTC)
    order_id, cart_id = getattr(command, "order_id", None), getattr(command, "cart_id", None)
    order: Any = None if order_id is None else await session.get(OrderRow, order_id, with_for_update=True)
    cart: Any = None if cart_id is None else await session.get(CartRow, cart_id, with_for_update=True)
    wanted = {*(getattr(command, "lines", None) or ()), *(() if cart is None else cart.held)}
    if order is not None:
        wanted.update(order.lines)
        wanted.update(product for fact in order.waiting or () for product in fact["lines"] or ())
    if hasattr(command, "product_id"):
        wanted.add(command.product_id)
    key = tables.inventory.c.product_id
    locked = select(StockRow).where(key.in_(wanted)).order_by(key).with_for_update()
    rows: Any = await session.scalars(locked) if wanted else ()
    stock = {row.product_id: row for row in rows}
    state = State(
        {row.product_id: _product(row) for row in stock.values()},
        {} if order is None else {order.order_id: _order(order)},
        {} if cart is None else {cart.cart_id: _cart(cart)},
    )
    decision = decide(state, command, policy)
    evolve(state, decision)
    _write_state(session, decision, stock, order, cart, now)
    for entry in decision.entries:
        columns = {**entry._asdict(), "event_id": entry.cause.event_id, "occurred_at": entry.cause.occurred_at}
        del columns["cause"]
        session.add(LedgerRow(**columns, recorded_at=now))
    for outcome in decision.outcomes:
        columns = outbox_row(outcome)._asdict()
        session.add(
            OutboxRow(aggregatetype=columns.pop("topic"), aggregateid=columns.pop("key"), **columns, created_at=now)
        )
    digest = hashlib.blake2b(body, digest_size=16).digest()
    session.add(
        InboxRow(
            event_id=cause.event_id,
            source=cause.source,
            digest=digest,
            outcome=decision.disposition.value,
            reason=decision.reason,
            recorded_at=now,
        )
    )


def _write_state(
    session: AsyncSession,
    decision: Decision,
    stock: Mapping[str, Any],
    order: Any,  # noqa: ANN401 - a class made from a Table has no typed columns
    cart: Any,  # noqa: ANN401 - same reason
    now: datetime,
) -> None:
    for product in decision.products.values():
        row: Any = stock.get(product.product_id) or StockRow(product_id=product.product_id)
        session.add(row)
        row.on_hand, row.reserved, row.low_stock_threshold = product.on_hand, product.reserved, product.threshold
        row.stock_status, row.alert_status = product.status.value, product.last_alert_status.value
        row.version, row.last_sequence, row.updated_at = product.version, product.sequence, now
    if decision.order is not None:
        facts = decision.order
        order = order or OrderRow(order_id=facts.order_id)
        session.add(order)
        order.status, order.user_id, order.cart_id = facts.status.value, facts.user_id, facts.cart_id
        order.lines = {product_id: list(line) for product_id, line in facts.lines.items()}
        order.paid, order.refused, order.seen = facts.paid, facts.refused, dict(facts.seen) or None
        order.waiting = [_written(fact) for fact in facts.waiting] or None
        order.expires_at, order.version, order.updated_at = facts.expires_at, facts.version, now
    if decision.cart is not None:
        held = decision.cart
        cart = cart or CartRow(cart_id=held.cart_id)
        session.add(cart)
        cart.status, cart.user_id, cart.held = held.status.value, held.user_id, dict(held.held)
        cart.snapshot_version, cart.as_of, cart.converted_at = held.snapshot_version, held.as_of, held.converted_at
        cart.expires_at, cart.version, cart.updated_at = held.expires_at, held.version, now


def _product(row: Any) -> Product:  # noqa: ANN401 - same reason
    return Product(
        row.product_id,
        row.on_hand,
        row.reserved,
        row.low_stock_threshold,
        StockStatus(row.alert_status),
        row.version,
        row.last_sequence,
    )


def _order(row: Any) -> Order:  # noqa: ANN401 - same reason
    return Order(
        row.order_id,
        OrderStatus(row.status),
        row.user_id,
        row.cart_id,
        {product_id: Line(*counters) for product_id, counters in row.lines.items()},
        row.paid,
        row.refused,
        tuple(_read(fact) for fact in row.waiting or ()),
        row.seen or {},
        row.expires_at,
        row.version,
    )


def _cart(row: Any) -> Cart:  # noqa: ANN401 - same reason
    return Cart(
        row.cart_id,
        CartStatus(row.status),
        row.user_id,
        row.held,
        row.snapshot_version,
        row.as_of,
        row.converted_at,
        row.expires_at,
        row.version,
    )


def _written(fact: Fact) -> dict[str, Any]:
    written: dict[str, Any] = orjson.loads(orjson.dumps({**fact._asdict(), "cause": fact.cause._asdict()}))
    return written


def _read(fact: dict[str, Any]) -> Fact:
    cause = fact["cause"]
    return Fact(
        FactKind(fact["kind"]),
        Cause(cause["source"], cause["event_id"], datetime.fromisoformat(cause["occurred_at"])),
        fact["lines"],
        fact["business_id"],
        fact["restock"],
        fact["returned"],
    )


if __name__ == "__main__":
    main()
