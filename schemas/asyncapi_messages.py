"""The messages of the AsyncAPI document: each event in its three envelopes, outgoing events, and dead letters."""

import re
from typing import Any, Final

from pydantic import BaseModel

from schemas.incoming import WITHOUT_NUL
from schemas.json_schema import Json, event_models, model_schema
from schemas.limits import MAX_ID_LENGTH
from schemas.outgoing import DEAD_LETTER_REASONS
from schemas.topics import SOURCE, TOPICS_STATE, TopicIn, TopicOut, TopicState

BINDING_VERSION: Final = "0.5.0"
STRUCTURED_CONTENT_TYPE: Final = "application/cloudevents+json"

_SCHEMAS = "#/components/schemas/"
_EXAMPLE_TIME = "2026-03-01T10:15:30.250Z"
_EXAMPLE_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def incoming_messages(topic: TopicIn) -> Json:
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
            "summary": "The simplest form: the data with event_id and occurred_at beside it.",
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
            "summary": "The body is the data; the envelope is in the headers.",
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
            "source": {"anyOf": [_identifier(f"Who published it; {topic.name} if absent."), {"type": "null"}]},
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
            "ce_source": _identifier(f"Who published it; {topic.name} if absent."),
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
            "source": _identifier(f"Who published it; {topic.name} if absent."),
            "type": _type(topic),
            "time": {**_TIME, "description": f"{_TIME['description']} The record's timestamp if absent."},
            "data": {"$ref": f"{_SCHEMAS}{topic.name}"},
        },
    }


def outgoing_message(topic: TopicOut, type_: str) -> Json:
    """Return one outgoing event."""
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


def state_message(topic: TopicState) -> Json:
    """Return the message of a topic of state; its records have no headers."""
    return {
        "name": topic.name,
        "title": topic.name,
        "summary": topic.description,
        "description": topic.contract.__doc__,
        "contentType": "application/json",
        "headers": {"type": "object", "maxProperties": 0},
        "payload": {"$ref": f"{_SCHEMAS}{topic.name}"},
        "bindings": _key_binding((topic.key_field,)),
        "examples": [{"name": topic.name, "payload": example} for example in _examples(topic.contract)],
    }


def _outgoing_headers(type_: str) -> Json:
    return {
        "type": "object",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type"],
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": {"type": "string", "description": "Deterministic: drop an event whose id you have seen."},
            "ce_source": {"type": "string", "const": SOURCE},
            "ce_type": {"type": "string", "const": type_},
            "ce_time": {"type": "string", "format": "date-time", "description": "Time of the causing event, in UTC."},
            "content-type": {"type": "string", "const": "application/json"},
            "traceparent": _TRACEPARENT,
        },
    }


_DEAD_LETTER_HEADERS = {
    "__dlq.errors.topic": "The record's topic.",
    "__dlq.errors.partition": "The record's partition.",
    "__dlq.errors.offset": "The record's offset.",
    "__dlq.errors.group": "The consumer group that read it.",
    "__dlq.errors.delivery.count": "Number of times it was delivered.",
    "__dlq.errors.message": "What is wrong with it, in one line.",
    "x-original-topic": "The topic to publish it to again; the header that Kafka user interfaces use.",
    "x-dlq-version": "The version of these headers.",
    "x-dlq-id": "The dead letter's id, a UUID; the primary key of the table dead_letters.",
    "x-dlq-reason": "The reason, from a closed list.",
    "x-dlq-exception-class": "The exception's class, if there was one.",
    "x-dlq-stacktrace": "The exception's stack trace, at most 8 KiB.",
    "x-dlq-fingerprint": "The same for dead letters that failed alike.",
    "x-dlq-failed-at": "When it was dead-lettered.",
    "x-dlq-original-timestamp": "The record's own timestamp.",
    "x-dlq-event-id": "The event's id, if it could be read.",
    "x-dlq-event-type": "The event's type, if it could be read.",
    "x-dlq-service-version": "The worker's version.",
    "x-dlq-redrive-count": "Number of times it was redriven.",
}


def dead_letter_message() -> Json:
    """Return the one message of every dead letter topic."""
    properties: Json = {
        name: {"type": "string", "description": description} for name, description in _DEAD_LETTER_HEADERS.items()
    }
    properties["x-dlq-reason"]["enum"] = list(DEAD_LETTER_REASONS)
    return {
        "name": "dead_letter",
        "title": "Dead letter",
        "summary": "A record that could not be applied, with its original bytes.",
        "description": "The original headers come first, unchanged; these are added, as UTF-8 text. "
        "The partition is the original's, modulo this topic's number of partitions.",
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
        "payload": {"description": "The original value; absent for a tombstone."},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": "The original key, byte for byte."},
                "bindingVersion": BINDING_VERSION,
            }
        },
        "examples": [
            {
                "name": "broken_json",
                "summary": "A truncated JSON body.",
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


def component_schemas() -> Json:
    """Return the schema of every event's body, of every state, and of their parts."""
    schemas: Json = {}
    states = {topic.name: topic.contract for topic in TOPICS_STATE.values()}
    for type_, model in (event_models() | states).items():
        schema = model_schema(model, f"{_SCHEMAS}{{model}}")
        schemas.update(schema.pop("$defs", {}))
        schemas[type_] = {**schema, "title": type_}
    return schemas


def _examples(model: type[BaseModel]) -> list[dict[str, Any]]:
    extra = model.model_config.get("json_schema_extra")
    assert isinstance(extra, dict), f"{model.__name__} has no example"  # noqa: S101 - a missing example is a bug, found by the tests
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
            "bindingVersion": BINDING_VERSION,
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
    "description": "When it happened: RFC 3339 with an offset from UTC.",
}
_TRACEPARENT: Json = {
    "type": "string",
    "description": "W3C trace context; copied to the events that this one causes.",
}
