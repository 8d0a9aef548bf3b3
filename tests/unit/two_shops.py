"""Two shops, ours and the oracle's, that are told the same and must say the same."""

from collections import Counter
from copy import deepcopy
from datetime import datetime
from types import MappingProxyType
from typing import Any

from dev.oracle.settings import Settings
from dev.oracle.shop import Shop as OracleShop
from dev.oracle.verdicts import Edge, Short, Verdict
from dev.oracle.verdicts import Outcome as ExpectedOutcome
from domain.commands import Command, ExpireCart, ExpireOrder, ForgetFact
from domain.decide import decide
from domain.model import (
    BackInStock,
    Decision,
    Disposition,
    EntryType,
    LatePaymentPolicy,
    Policy,
    ReservationOutcome,
    State,
    StockAlert,
)
from tests.unit.domain_cases import Books, Event, at, command, event


class TwoShops:
    """Our rules beside the oracle's: each step is taken by both, and their answers are compared."""

    def __init__(self, late_payment: LatePaymentPolicy) -> None:
        self.books = Books(policy=Policy(default_threshold=3, late_payment=late_payment))
        self.oracle = OracleShop(Settings(default_threshold=3, late_payment=late_payment))
        self.history: list[Event] = []

    def publish(self, topic: str, minute: int, *, overdue: bool = False, **data: Any) -> None:
        """Publish a new event; with `overdue`, holds due twenty minutes after noon may expire in its favour."""
        published = event(topic, f"{topic}-{len(self.history)}", minute, **data)
        self.history.append(published)
        self.take(published, at(20) if overdue else None)

    def take(self, published: Event, due_before: datetime | None) -> None:
        """Apply the event to both shops and compare the answers."""
        verdict = self.oracle.apply(published, due_before)
        already = len(self.books.decisions)
        decision = self._obey(command(published), due_before)
        _agree(verdict, decision)
        *expired, _ = self.books.decisions[already:]
        assert len(verdict.expired) == len(expired)
        for expected, expiry in zip(verdict.expired, expired, strict=True):
            _agree(expected, expiry)

    def _obey(self, asked: Command, due_before: datetime | None = None) -> Decision:
        _decides_purely(self.books.state, asked, self.books.policy)
        return self.books.obey(asked, due_before)

    def expire_order(self, order_id: str, minute: int) -> None:
        """Sweep one order in both shops."""
        verdict = self.oracle.expire_order(order_id, at(minute))
        _agree(verdict, self._obey(ExpireOrder(order_id, at(minute))))

    def expire_cart(self, cart_id: str, minute: int) -> None:
        """Sweep one cart in both shops."""
        verdict = self.oracle.expire_cart(cart_id, at(minute))
        _agree(verdict, self._obey(ExpireCart(cart_id, at(minute))))

    def forget(self, order_id: str, waiting: Event) -> None:
        """Let a waiting fact's deadline pass in both shops."""
        forgotten = self.oracle.forget(order_id, (waiting["source"], waiting["id"]))
        decision = self._obey(ForgetFact(order_id, waiting["source"], waiting["id"]))
        assert decision.disposition is (Disposition.APPLIED if forgotten else Disposition.DUPLICATE)

    def check(self) -> None:
        """Compare everything that the two shops know."""
        self.books.check()
        self.check_stock()
        self.check_orders_and_carts()

    def check_stock(self) -> None:
        """Stock, settings, versions and ledger sums are the oracle's."""
        seen = {
            product_id: (
                found.on_hand,
                found.reserved,
                found.threshold,
                found.last_alert_status,
                found.version,
                found.sequence,
            )
            for product_id, found in self.books.state.products.items()
        }
        expected = {
            product_id: (p.on_hand, p.reserved, p.threshold, p.reported, p.version, p.entries)
            for product_id, p in self.oracle.products.items()
        }
        assert expected == seen
        sums: dict[str, Counter[str]] = {product_id: Counter() for product_id in expected}
        for entry in self.books.entries:
            signed = entry.on_hand_after - entry.on_hand_before if entry.type is EntryType.ADJUST else entry.quantity
            sums[entry.product_id][entry.type] += signed
        assert {p: {k: n for k, n in known.ledger.items() if n} for p, known in self.oracle.products.items()} == {
            p: {k: n for k, n in found.items() if n} for p, found in sums.items()
        }

    def check_orders_and_carts(self) -> None:
        """Every order's status and hold, and every cart's hold, are the oracle's."""
        assert {o.order_id: o.status for o in self.oracle.orders.values() if o.requested or o.waiting or o.paid} == {
            o.order_id: o.status for o in self.books.state.orders.values() if o.lines or o.waiting or o.paid
        }
        for order in self.oracle.orders.values():
            known = self.books.state.orders.get(order.order_id)
            held = {} if known is None else {p: line.held for p, line in known.lines.items() if line.held}
            assert held == {p: n for p, (n, _) in order.placed.items() if n}
        assert {c.cart_id: (c.status, c.held, c.expires_at) for c in self.oracle.carts.values()} == {
            c.cart_id: (c.status, c.held, c.expires_at) for c in self.books.state.carts.values()
        }


def _cause(event_id: str) -> str:
    """Return the oracle's id of a cause: it names expiries by their owner, without the deadline."""
    return ":".join(event_id.split(":")[:3]) if event_id.startswith("expired:") else event_id


def _outcomes(decision: Decision) -> list[ExpectedOutcome]:
    return [
        ExpectedOutcome(
            outcome.kind,
            (outcome.reference_type, outcome.reference_id),
            _cause(outcome.cause.event_id),
            tuple(sorted(outcome.lines.items())),
            outcome.reason,
            tuple(Short(*shortage) for shortage in outcome.shortages),
        )
        for outcome in decision.outcomes
        if isinstance(outcome, ReservationOutcome)
    ]


def _edges(decision: Decision) -> set[Edge]:
    return {
        Edge(
            alert.severity,
            alert.product.product_id,
            alert.product.on_hand,
            alert.product.reserved,
            alert.product.threshold,
            _cause(alert.cause.event_id),
        )
        for alert in decision.outcomes
        if isinstance(alert, StockAlert)
    }


def _back_in_stock(decision: Decision) -> list[str]:
    return [outcome.product.product_id for outcome in decision.outcomes if isinstance(outcome, BackInStock)]


def _agree(verdict: Verdict, decision: Decision) -> None:
    assert (verdict.disposition, verdict.reason) == (decision.disposition, decision.reason)
    assert verdict.outcomes == _outcomes(decision)
    assert set(verdict.edges) == _edges(decision)
    assert len(verdict.edges) == sum(isinstance(outcome, StockAlert) for outcome in decision.outcomes)
    assert sorted(verdict.back_in_stock) == sorted(_back_in_stock(decision))
    assert sorted(map(str, verdict.resolved)) == sorted(
        str((fact.cause.event_id, str(fact.disposition), None if fact.reason is None else str(fact.reason)))
        for fact in decision.resolved
    )


def _decides_purely(state: State, asked: Command, policy: Policy) -> None:
    """Decide twice over a read-only state; both decisions must be equal and the state unchanged."""
    before = deepcopy((state, asked))
    frozen = State(*(MappingProxyType(part) for part in state))  # type: ignore[arg-type]
    assert decide(frozen, asked, policy) == decide(frozen, asked, policy)
    assert (state, asked) == before
