"""Poison: records made invalid on purpose, the dead letter reasons allowed for each, and random mutations."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]
Header = tuple[str, bytes | None]
Spoilt = tuple[bytes | None, Sequence[Header]]


@dataclass(frozen=True, slots=True)
class PoisonRecord:
    """A kind of invalid record: how to make it from a valid plain event, and the allowed dead letter reasons."""

    name: str
    topic: str
    reasons: tuple[str, ...]
    spoil: Callable[[Body], Spoilt]
    reuses_id: bool = False


def _json(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _line(body: Body, quantity: object) -> bytes:
    return _json({**body, "items": [{**body["items"][0], "quantity": quantity}]})


POISONS = (
    PoisonRecord("cut off", "order.created", ("decode_error",), lambda body: (_json(body)[:-9], ())),
    PoisonRecord("not text", "cart.updated", ("decode_error",), lambda _: (b"\xff\xfe\x00\x80" * 9, ())),
    PoisonRecord("text quantity", "order.created", ("schema_invalid",), lambda body: (_line(body, "3"), ())),
    PoisonRecord("negative quantity", "order.created", ("schema_invalid",), lambda body: (_line(body, -2), ())),
    PoisonRecord("huge quantity", "order.created", ("schema_invalid",), lambda body: (_line(body, 10**30), ())),
    PoisonRecord("fraction", "order.created", ("schema_invalid",), lambda body: (_line(body, 1.5), ())),
    PoisonRecord(
        "no lines",
        "order.created",
        ("schema_invalid",),
        lambda body: (_json({key: body[key] for key in body if key != "items"}), ()),
    ),
    PoisonRecord(
        "too many lines",
        "order.created",
        ("schema_invalid",),
        lambda body: (_json({**body, "items": body["items"] * 1001}), ()),
    ),
    PoisonRecord(
        "foreign type",
        "payment.succeeded",
        ("unknown_type",),
        lambda body: (_json({**body, "event_type": "newsletter.subscribed"}), ()),
    ),
    PoisonRecord(
        "framed", "order.created", ("decode_error",), lambda body: (b"\x00\x00\x00\x01\xa1" + _json(body), ())
    ),
    PoisonRecord("tombstone", "order.cancelled", ("decode_error",), lambda _: (None, ())),
    PoisonRecord("empty", "payment.refunded", ("decode_error",), lambda _: (b"", ())),
    PoisonRecord(
        "binary id",
        "payment.succeeded",
        ("decode_error",),
        lambda body: (_json(body), (("ce_id", b"\xff\xfe"), ("ce_type", b"payment.succeeded"))),
    ),
    PoisonRecord(
        "null header",
        "cart.updated",
        ("decode_error",),
        lambda body: (_json(body), (("ce_id", None), ("ce_type", None), ("\u00e9", b"\xc3\x28"))),
    ),
    PoisonRecord(
        "no offset",
        "order.created",
        ("schema_invalid",),
        lambda body: (_json({**body, "occurred_at": str(body["occurred_at"]).partition("+")[0]}), ()),
    ),
    PoisonRecord(
        "NUL in an id", "order.created", ("schema_invalid",), lambda body: (_json({**body, "order_id": "a\0b"}), ())
    ),
    PoisonRecord("a list", "product.created", ("schema_invalid",), lambda body: (_json([body]), ())),
    PoisonRecord(
        "deep", "product.created", ("decode_error", "schema_invalid"), lambda _: (b"[" * 5000 + b"]" * 5000, ())
    ),
    PoisonRecord(
        "over a megabyte",
        "inventory.adjustment",
        ("schema_invalid",),
        lambda body: (_json({**body, "padding": "x" * 1_050_000}), ()),
    ),
    PoisonRecord("id reused", "order.created", ("id_reused",), lambda body: (_json(body), ()), reuses_id=True),
)
BY_NAME: Mapping[str, PoisonRecord] = {poison.name: poison for poison in POISONS}


def near_valid(draw: random.Random, name: str) -> tuple[str, Body]:
    """Return a topic and a valid event's data, about products that no other event names."""
    items = [{"product_id": f"{name}-p{number}", "quantity": draw.randint(1, 9)} for number in range(2)]
    return draw.choice(
        (
            ("cart.updated", {"cart_id": name, "version": 1, "items": items}),
            ("order.created", {"order_id": name, "items": items}),
            ("payment.succeeded", {"order_id": name}),
            ("order.cancelled", {"order_id": name, "items": items}),
            ("payment.refunded", {"order_id": name, "refund_id": "r", "items": items}),
            ("inventory.adjustment", {"product_id": name, "operation": "ADD", "quantity": 3, "reason": "?"}),
        )
    )


def mutate(value: bytes, seed: str) -> bytes:
    """Flip, delete, duplicate or insert a few bytes."""
    draw = random.Random(seed)
    bytes_ = bytearray(value)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(bytes_) or 1)
        match draw.randrange(5):
            case 0 if bytes_:
                bytes_[at] ^= 1 << draw.randrange(8)
            case 1:
                del bytes_[at : at + draw.randint(1, 8)]
            case 2:
                bytes_[at:at] = bytes_[at : at + draw.randint(1, 20)]
            case 3:
                bytes_[at:at] = draw.choice((b"\x00", b'"', b"{", b"1e999", b"\\ud800", b"null", b"-", b"\xff"))
            case _ if bytes_:
                bytes_[at] = draw.randrange(256)
    return bytes(bytes_)


def odd_headers(seed: str) -> Sequence[Header]:
    """Return unusual headers that do not change the record's envelope."""
    draw = random.Random(f"{seed}-headers")
    return [
        (draw.choice(("x-\u00fc", "", "X-TRACE", "a" * 300)), draw.choice((None, b"", b"\xff\x00\xfe", b"text")))
        for _ in range(draw.randint(0, 3))
    ]
