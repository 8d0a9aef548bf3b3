"""The AsyncAPI 3.0 document: every topic in, out and of dead letters, made from the table of topics."""

import re
from typing import Any, Final

from pydantic import BaseModel

from schemas.envelope import MAX_AHEAD_HOURS, MAX_RECORD_BYTES
from schemas.incoming import MAX_ID_LENGTH, MAX_LINES, MAX_QUANTITY, WITHOUT_NUL
from schemas.json_schema import Json, event_models, model_schema
from schemas.outgoing import DEAD_LETTER_REASONS
from schemas.topics import SOURCE, TOPICS_IN, TOPICS_OUT, TopicIn, TopicOut, dlq_topic

CONTRACTS_VERSION: Final = "1.0.0"
STRUCTURED_CONTENT_TYPE: Final = "application/cloudevents+json"

_BINDING_VERSION = "0.5.0"
_SCHEMAS = "#/components/schemas/"
_EXAMPLE_TIME = "2026-03-01T10:15:30.250Z"
_EXAMPLE_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

_DESCRIPTION = f"""\
Turns what happens in a shop (carts, orders, payments, cancellations, refunds) into stock that is reserved, deducted or
released, never oversold, and tells what others need to know.

**Publishing.** CloudEvents 1.0 over Kafka in binary or structured mode, or plain JSON that carries `event_id` and
`occurred_at`. Header names are case-insensitive. Fields that are not named here are ignored; types are not coerced
(`"3"` is not a quantity). Quantities are integers from 1 to {MAX_QUANTITY:,}, an event has at most {MAX_LINES:,} lines
and {MAX_RECORD_BYTES:,} bytes; lines that repeat a product are summed. Use the key named at each message: Kafka keeps
order within a key only.

**Identity.** An event is known by (source, id); without a source, the topic's name is it. The same id again with the
same data is a duplicate and changes nothing. The same id with other data is a mistake and becomes a dead letter.

**Time.** `ce_time` (without it the record's timestamp), `time` or `occurred_at`: RFC 3339 with an offset, at most
{MAX_AHEAD_HOURS} hours ahead of the record's timestamp and of the worker's clock. Holds expire counted from it.

**Consuming.** Outgoing events are CloudEvents in binary mode, and their bodies say id, type and time as well. Delivery
is at least once; ids are deterministic, so drop an id that you have seen. Ignore fields that you do not know.

**Dead letters.** A record that breaks its contract, or that can never be applied, goes to `<topic>.dlq` with its
original key, value and headers, byte for byte, and headers that say why. Mend the cause and publish it again.
"""


def asyncapi_document() -> Json:
    """Return the document; each part of it is in `components` once and referred to from there."""
    incoming, outgoing = list(TOPICS_IN.values()), list(TOPICS_OUT.values())
    channels: Json = {}
    operations: Json = {}
    messages: Json = {"dead_letter": _dead_letter_message()}
    for topic in incoming:
        messages.update(_incoming_messages(topic))
        channels[topic.name] = _incoming_channel(topic)
        operations[f"receive_{_key(topic.name)}"] = _receive(topic)
    for out in outgoing:
        messages.update({type_: _outgoing_message(out, type_) for type_ in out.types})
        channels[out.name] = _channel(out.name, out.description, "out", list(out.types))
        operations[f"send_{_key(out.name)}"] = _send(out.name, "Tells what became of stock.")
    for topic in incoming:
        name = dlq_topic(topic.name)
        channels[name] = _channel(name, f"Dead letters of {topic.name}.", "dead-letters", ["dead_letter"])
        operations[f"send_{_key(name)}"] = _send(name, f"Sets aside a record of {topic.name} that cannot be applied.")
    return {
        "asyncapi": "3.0.0",
        "id": "urn:inventory-worker",
        "info": {
            "title": "Inventory worker",
            "version": CONTRACTS_VERSION,
            "description": _DESCRIPTION,
            "tags": [
                {"name": "in", "description": "Topics that the worker reads; you publish to them."},
                {"name": "out", "description": "Topics that the worker writes; you consume them."},
                {"name": "dead-letters", "description": "Records that could not be applied."},
            ],
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{bootstrap_server}",
                "protocol": "kafka",
                "description": "The shop's Kafka, 3.7 or newer.",
                "variables": {
                    "bootstrap_server": {
                        "default": "localhost:9092",
                        "description": "What INVENTORY_KAFKA_BOOTSTRAP_SERVERS names.",
                    }
                },
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": _schemas()},
    }


def _key(name: str) -> str:
    return name.replace(".", "_")


def _channel(name: str, description: str, tag: str, messages: list[str]) -> Json:
    return {
        "address": name,
        "title": name,
        "description": description,
        "messages": {_key(message): {"$ref": f"#/components/messages/{message}"} for message in messages},
        "tags": [{"name": tag}],
        "bindings": {"kafka": {"topic": name, "bindingVersion": _BINDING_VERSION}},
    }


def _incoming_channel(topic: TopicIn) -> Json:
    names = [f"{topic.name}.{mode}" for mode in ("plain", "binary", "structured")]
    return _channel(topic.name, topic.description, "in", names)


def _receive(topic: TopicIn) -> Json:
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "title": f"Apply {topic.name}",
        "summary": topic.description,
        "bindings": {
            "kafka": {
                "groupId": {
                    "type": "string",
                    "default": "inventory-worker",
                    "description": "What INVENTORY_KAFKA_GROUP_ID names.",
                },
                "bindingVersion": _BINDING_VERSION,
            }
        },
    }


def _send(name: str, summary: str) -> Json:
    return {"action": "send", "channel": {"$ref": f"#/channels/{name}"}, "title": f"Publish {name}", "summary": summary}


def _incoming_messages(topic: TopicIn) -> Json:
    """Return the topic's event in each of the three envelopes."""
    data = {"$ref": f"{_SCHEMAS}{topic.name}"}
    examples = _examples(topic.contract)
    common: Json = {
        "description": topic.contract.__doc__,
        "bindings": _key_binding((topic.key_field,)),
    }
    structured_headers = {"content-type": STRUCTURED_CONTENT_TYPE}
    return {
        f"{topic.name}.plain": {
            "name": topic.name,
            "title": f"{topic.name}, plain JSON",
            "summary": "What to try first: the data, and beside it event_id and occurred_at.",
            **common,
            "contentType": "application/json",
            "headers": {"type": "object", "properties": {"traceparent": _TRACEPARENT}},
            "payload": {"allOf": [_plain_envelope(topic), data]},
            "examples": [
                {"name": "plain", "payload": {"event_id": "evt-1001", "occurred_at": _EXAMPLE_TIME, **example}}
                for example in examples
            ],
        },
        f"{topic.name}.binary": {
            "name": topic.name,
            "title": f"{topic.name}, CloudEvents binary mode",
            "summary": "The body is the data, the envelope is in the headers.",
            **common,
            "contentType": "application/json",
            "headers": _binary_headers(topic),
            "payload": data,
            "examples": [
                {"name": "binary", "headers": _example_headers(topic.name, "/shop"), "payload": example}
                for example in examples
            ],
        },
        f"{topic.name}.structured": {
            "name": topic.name,
            "title": f"{topic.name}, CloudEvents structured mode",
            "summary": "The body is the whole CloudEvent.",
            **common,
            "contentType": STRUCTURED_CONTENT_TYPE,
            "headers": {
                "type": "object",
                "required": ["content-type"],
                "properties": {
                    "content-type": {
                        "type": "string",
                        "pattern": r"^application/cloudevents\+json",
                        "description": "Case-insensitive; parameters such as charset are allowed.",
                    },
                    "traceparent": _TRACEPARENT,
                },
            },
            "payload": _structured_payload(topic),
            "examples": [
                {
                    "name": "structured",
                    "headers": structured_headers,
                    "payload": {**_attributes(topic.name, "/shop"), "data": example},
                }
                for example in examples
            ],
        },
    }


def _plain_envelope(topic: TopicIn) -> Json:
    return {
        "type": "object",
        "required": ["event_id", "occurred_at"],
        "properties": {
            "event_id": _identifier("The event's id, unique within its source."),
            "occurred_at": _TIME,
            "source": {"anyOf": [_identifier(f"Who says so; {topic.name} if absent."), {"type": "null"}]},
            "event_type": {"anyOf": [_type(topic), {"type": "null"}]},
        },
    }


def _binary_headers(topic: TopicIn) -> Json:
    return {
        "type": "object",
        "required": ["ce_id"],
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": _identifier("The event's id, unique within its source."),
            "ce_source": _identifier(f"Who says so; {topic.name} if absent."),
            "ce_type": _type(topic),
            "ce_time": {**_TIME, "description": f"{_TIME['description']} The record's timestamp if absent."},
            "traceparent": _TRACEPARENT,
        },
    }


def _structured_payload(topic: TopicIn) -> Json:
    return {
        "type": "object",
        "required": ["id", "data"],
        "properties": {
            "specversion": {"type": "string", "const": "1.0"},
            "id": _identifier("The event's id, unique within its source."),
            "source": _identifier(f"Who says so; {topic.name} if absent."),
            "type": _type(topic),
            "time": {**_TIME, "description": f"{_TIME['description']} The record's timestamp if absent."},
            "data": {"$ref": f"{_SCHEMAS}{topic.name}"},
        },
    }


def _outgoing_message(topic: TopicOut, type_: str) -> Json:
    model = topic.types[type_]
    return {
        "name": type_,
        "title": type_,
        "summary": (model.__doc__ or "").partition(".")[0] + ".",
        "description": model.__doc__,
        "contentType": "application/json",
        "headers": _outgoing_headers(type_),
        "payload": {"$ref": f"{_SCHEMAS}{type_}"},
        "bindings": _key_binding(topic.key_fields),
        "examples": [
            {
                "name": type_,
                "headers": {
                    **_example_headers(type_, SOURCE),
                    "ce_id": example["event_id"],
                    "ce_time": example["occurred_at"],
                },
                "payload": example,
            }
            for example in _examples(model)
        ],
    }


def _outgoing_headers(type_: str) -> Json:
    return {
        "type": "object",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type"],
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": {"type": "string", "description": "Deterministic: drop an id that you have seen."},
            "ce_source": {"type": "string", "const": SOURCE},
            "ce_type": {"type": "string", "const": type_},
            "ce_time": {"type": "string", "format": "date-time", "description": "When the cause happened."},
            "content-type": {"type": "string", "const": "application/json"},
            "traceparent": _TRACEPARENT,
        },
    }


_DEAD_LETTER_HEADERS = {
    "__dlq.errors.topic": "The topic that the record was read from.",
    "__dlq.errors.partition": "Its partition there.",
    "__dlq.errors.offset": "Its offset there.",
    "__dlq.errors.group": "The consumer group that gave up on it.",
    "__dlq.errors.delivery.count": "How often it was delivered.",
    "__dlq.errors.message": "What is wrong with it, for a person.",
    "x-original-topic": "Where to publish it again; what user interfaces look for.",
    "x-dlq-version": "The version of these headers.",
    "x-dlq-id": "The dead letter's id, a UUID; the primary key in the table dead_letters.",
    "x-dlq-reason": "Why, from a closed list.",
    "x-dlq-exception-class": "The exception, if there was one.",
    "x-dlq-stacktrace": "Where it was raised, 8 KiB at most.",
    "x-dlq-fingerprint": "Equal for dead letters of the same cause.",
    "x-dlq-failed-at": "When the worker gave up on it.",
    "x-dlq-original-timestamp": "The record's own timestamp.",
    "x-dlq-event-id": "The event's id, as far as it could be read.",
    "x-dlq-event-type": "The event's type, as far as it could be read.",
    "x-dlq-service-version": "The worker's version.",
    "x-dlq-redrive-count": "How often it was published again from the dead letters.",
}


def _dead_letter_message() -> Json:
    properties: Json = {
        name: {"type": "string", "description": description} for name, description in _DEAD_LETTER_HEADERS.items()
    }
    properties["x-dlq-reason"]["enum"] = list(DEAD_LETTER_REASONS)
    return {
        "name": "dead_letter",
        "title": "Dead letter",
        "summary": "A record that could not be applied, byte for byte as it came.",
        "description": "The original's headers come first, as they were; these are added, as UTF-8 text. "
        "The partition is the original's, modulo the number of partitions here.",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "required": [
                "__dlq.errors.topic",
                "__dlq.errors.partition",
                "__dlq.errors.offset",
                "__dlq.errors.message",
                "x-original-topic",
                "x-dlq-id",
                "x-dlq-reason",
            ],
            "properties": properties,
        },
        "payload": {"description": "The original's value, whatever it was; it may be absent (a tombstone)."},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": "The original's key, byte for byte."},
                "bindingVersion": _BINDING_VERSION,
            }
        },
        "examples": [
            {
                "name": "broken_json",
                "summary": "A body that ends too early.",
                "headers": {
                    "__dlq.errors.topic": "order.created",
                    "__dlq.errors.partition": "2",
                    "__dlq.errors.offset": "1841",
                    "__dlq.errors.group": "inventory-worker",
                    "__dlq.errors.delivery.count": "1",
                    "__dlq.errors.message": "the body is not JSON: unexpected end of data: line 1 column 14 (char 13)",
                    "x-original-topic": "order.created",
                    "x-dlq-id": "5c1b2a6e-9a1f-5d43-8a58-3a1d0a3f7f10",
                    "x-dlq-reason": "decode_error",
                },
                "payload": '{"order_id": ',
            }
        ],
    }


def _schemas() -> Json:
    schemas: Json = {}
    for type_, model in event_models().items():
        schema = model_schema(model, f"{_SCHEMAS}{{model}}")
        schemas.update(schema.pop("$defs", {}))
        schemas[type_] = {**schema, "title": type_}
    return schemas


def _examples(model: type[BaseModel]) -> list[dict[str, Any]]:
    extra = model.model_config.get("json_schema_extra")
    assert isinstance(extra, dict), f"{model.__name__} has no example"  # noqa: S101 - a bug of ours, found by the tests
    return list(extra["examples"])  # type: ignore[arg-type]


def _attributes(type_: str, source: str) -> dict[str, str]:
    return {"specversion": "1.0", "id": "evt-1001", "source": source, "type": type_, "time": _EXAMPLE_TIME}


def _example_headers(type_: str, source: str) -> dict[str, str]:
    headers = {f"ce_{name}": value for name, value in _attributes(type_, source).items()}
    return {**headers, "content-type": "application/json", "traceparent": _EXAMPLE_TRACE}


def _key_binding(fields: tuple[str, ...]) -> Json:
    return {
        "kafka": {
            "key": {"type": "string", "description": f"The {' or '.join(fields)}, as UTF-8 text."},
            "bindingVersion": _BINDING_VERSION,
        }
    }


def _identifier(description: str) -> Json:
    return {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_ID_LENGTH,
        "pattern": WITHOUT_NUL,
        "description": description,
    }


def _type(topic: TopicIn) -> Json:
    return {
        "type": "string",
        "pattern": rf"^(.*\.)?{re.escape(topic.name)}$",
        "description": f"{topic.name}, alone or behind a prefix such as com.example.",
    }


_TIME: Json = {
    "type": "string",
    "format": "date-time",
    "description": "When it happened, with an offset.",
}
_TRACEPARENT: Json = {
    "type": "string",
    "description": "W3C trace context; carried on to the events that this one causes.",
}
