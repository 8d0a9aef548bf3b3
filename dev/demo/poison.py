"""Poison: the demo's records that are invalid on purpose."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Body = dict[str, Any]
Header = tuple[str, bytes | None]


@dataclass(frozen=True, slots=True)
class PoisonRecord:
    """A kind of invalid record; `spoil` makes its value and headers from the body of a valid order, a plain event."""

    name: str
    topic: str
    spoil: Callable[[Body], tuple[bytes | None, Sequence[Header]]]
    reuses_id: bool = False


def _truncated(body: Body) -> tuple[bytes, Sequence[Header]]:
    return _json(body)[:-20], ()


def _text_quantity(body: Body) -> tuple[bytes, Sequence[Header]]:
    return _json(_with_line(body, quantity="3")), ()


def _negative_quantity(body: Body) -> tuple[bytes, Sequence[Header]]:
    return _json(_with_line(body, quantity=-2)), ()


def _missing_items(body: Body) -> tuple[bytes, Sequence[Header]]:
    return _json({name: value for name, value in body.items() if name != "items"}), ()


def _foreign_type(body: Body) -> tuple[bytes, Sequence[Header]]:
    return _json({**body, "event_type": "newsletter.subscribed"}), ()


def _framed(body: Body) -> tuple[bytes, Sequence[Header]]:
    return b"\x00" + (417).to_bytes(4, "big") + _json(body), ()


def _tombstone(_body: Body) -> tuple[None, Sequence[Header]]:
    return None, ()


def _binary_header(body: Body) -> tuple[bytes, Sequence[Header]]:
    return _json(body), (("ce_id", b"\xff\xfe\x00"), ("ce_type", None))


def _too_many_lines(body: Body) -> tuple[bytes, Sequence[Header]]:
    return _json({**body, "items": [{"product_id": "tea-green", "quantity": 1}] * 1001}), ()


def _no_offset(body: Body) -> tuple[bytes, Sequence[Header]]:
    return _json({**body, "occurred_at": body["occurred_at"].partition("+")[0]}), ()


def _other_lines(body: Body) -> tuple[bytes, Sequence[Header]]:
    return _json(_with_line(body, quantity=77)), ()


# The shop publishes them in this order.
POISONS: Final = (
    PoisonRecord("broken JSON", "order.created", _truncated),
    PoisonRecord("a quantity that is text", "order.created", _text_quantity),
    PoisonRecord("an id used twice", "order.created", _other_lines, reuses_id=True),
    PoisonRecord("a type from elsewhere", "payment.succeeded", _foreign_type),
    PoisonRecord("a schema registry's frame", "order.created", _framed),
    PoisonRecord("an order changed afterwards", "order.created", _other_lines),
    PoisonRecord("a negative quantity", "order.cancelled", _negative_quantity),
    PoisonRecord("a tombstone", "order.cancelled", _tombstone),
    PoisonRecord("binary and null headers", "cart.updated", _binary_header),
    PoisonRecord("a missing field", "order.created", _missing_items),
    PoisonRecord("1,001 lines", "order.created", _too_many_lines),
    PoisonRecord("a time without its offset", "payment.succeeded", _no_offset),
)
BY_NAME: Final[Mapping[str, PoisonRecord]] = {poison.name: poison for poison in POISONS}


def _with_line(body: Body, *, quantity: object) -> Body:
    first, *others = body["items"]
    return {**body, "items": [{**first, "quantity": quantity}, *others]}


def _json(body: Body) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
