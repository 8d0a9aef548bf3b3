"""From the domain's outcomes to outbox rows: deterministic ids, keys, topics and bodies."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from domain.model import (
    BackInStock,
    Cause,
    Outcome,
    OutcomeKind,
    Product,
    Reason,
    ReferenceType,
    ReservationOutcome,
    Shortage,
    StockAlert,
    StockStatus,
)
from domain.requests import REQUEST_REASONS
from engine.outbox_rows import outbox_row
from schemas.outgoing import REFUSAL_REASONS
from schemas.topics import TOPICS_OUT

AT = datetime(2026, 3, 1, 10, 15, 30, 250_000, tzinfo=UTC)
CAUSE = Cause("shop", "evt-1", AT)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REFUSED = {OutcomeKind.REJECTED, OutcomeKind.SHORTFALL, OutcomeKind.CART_SHORTAGE}


def _reservation(kind: OutcomeKind, cause: Cause = CAUSE, owner: str = "o-1", user: str | None = "u") -> Outcome:
    reference = ReferenceType.CART if kind is OutcomeKind.CART_SHORTAGE else ReferenceType.ORDER
    if kind in REFUSED:
        short = (Shortage("p", 3, 1, Reason.INSUFFICIENT_STOCK),)
        return ReservationOutcome(kind, reference, owner, user, {}, Reason.INSUFFICIENT_STOCK, short, cause)
    return ReservationOutcome(kind, reference, owner, user, {"p": 2}, None, (), cause)


def _alert(severity: StockStatus, product_id: str = "p") -> Outcome:
    return StockAlert(severity, Product(product_id, 9, 4, 5, severity, 31, 7), CAUSE)


def _back_in_stock(available: int) -> Outcome:
    return BackInStock(Product("p", 4 + available, 4, 5, StockStatus.OUT, 31, 7), CAUSE)


ALL: list[Outcome] = [*map(_reservation, OutcomeKind), *map(_alert, StockStatus), *map(_back_in_stock, (5, 6))]


@pytest.mark.parametrize(
    "outcome",
    ALL,
    ids=lambda outcome: str(getattr(outcome, "kind", None) or getattr(outcome, "severity", "back_in_stock")),
)
def test_every_outcome_keeps_its_contract(outcome: Outcome) -> None:
    """Topic, type, key and body are what the contract of the type says."""
    row = outbox_row(outcome)
    topic = TOPICS_OUT[row.topic]
    model = topic.types[row.type].model_validate_json(row.payload)
    body = json.loads(row.payload)
    assert (row.id, "evt-1", "2026-03-01T10:15:30.250000Z", row.type) == (
        model.event_id,
        model.caused_by,
        body["occurred_at"],
        body["type"],
    )
    assert row.key in {body.get(field) for field in topic.key_fields}


@pytest.mark.parametrize(("available", "severity"), [(5, "low"), (6, "ok")])
def test_a_return_to_stock_says_the_status_now(available: int, severity: str) -> None:
    """The severity is the stock status after the change, not the worst status that was alerted before."""
    assert severity == json.loads(outbox_row(_back_in_stock(available)).payload)["severity"]


def test_every_outgoing_type_has_an_outcome() -> None:
    """Every contract has an outcome that produces it."""
    assert {type_ for topic in TOPICS_OUT.values() for type_ in topic.types} == {
        outbox_row(outcome).type for outcome in ALL
    }


def test_the_same_outcome_has_the_same_id() -> None:
    """The id follows from type, key and cause, whatever else differs."""
    first = outbox_row(_reservation(OutcomeKind.RESERVED))
    again = outbox_row(_reservation(OutcomeKind.RESERVED, CAUSE._replace(traceparent=TRACE), user=None))
    assert first.id == again.id
    assert 5 == UUID(first.id).version


@pytest.mark.parametrize(
    "other",
    [
        _reservation(OutcomeKind.DEDUCTED),
        _reservation(OutcomeKind.RESERVED, owner="o-2"),
        _reservation(OutcomeKind.RESERVED, Cause("elsewhere", "evt-1", AT)),
        _reservation(OutcomeKind.RESERVED, Cause("shop", "evt-2", AT)),
        _alert(StockStatus.LOW, "o-1"),
    ],
)
def test_another_outcome_has_another_id(other: Outcome) -> None:
    """Another type, key, source or event makes another id."""
    assert outbox_row(_reservation(OutcomeKind.RESERVED)).id != outbox_row(other).id


def test_ids_stay_what_they_are() -> None:
    """Consumers remember ids to drop repeats, so a release of the worker must not change them."""
    expected = ["306c2784-f033-5e15-8007-e5269ca97ae5", "1d94fafe-cb51-570c-bac1-a3c30aaf0e77"]
    assert expected == [outbox_row(outcome).id for outcome in ALL[:2]]


def test_what_is_not_known_is_left_out() -> None:
    """A field without a value is absent, never null."""
    body: dict[str, Any] = json.loads(outbox_row(_reservation(OutcomeKind.RESERVED, user=None)).payload)
    assert "user_id" not in body
    assert None not in body.values()


def test_the_trace_is_carried_in_a_header() -> None:
    """The traceparent is a header, not a field of the body."""
    traced = _reservation(OutcomeKind.RESERVED, CAUSE._replace(traceparent=TRACE))
    assert {"traceparent": TRACE} == json.loads(outbox_row(traced).headers or "")
    assert outbox_row(ALL[0]).headers is None


def test_the_published_reasons_are_the_domains() -> None:
    """The contract's closed list is the domain's, in its order of precedence, without those of requests."""
    assert tuple(REFUSAL_REASONS) == tuple(reason.value for reason in Reason if reason not in REQUEST_REASONS)
