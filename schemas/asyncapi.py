"""The AsyncAPI 3.0 document of all topics, generated from the table of topics."""

from typing import Final

from schemas.asyncapi_messages import (
    BINDING_VERSION,
    component_schemas,
    dead_letter_message,
    incoming_messages,
    outgoing_message,
    state_message,
)
from schemas.json_schema import Json
from schemas.limits import MAX_AHEAD_HOURS, MAX_LINES, MAX_QUANTITY, MAX_RECORD_BYTES
from schemas.topics import TOPICS_IN, TOPICS_OUT, TOPICS_STATE, TopicIn, dlq_topic

CONTRACTS_VERSION: Final = "1.0.0"

_DESCRIPTION = f"""\
Turns what happens in a shop (carts, orders, payments, cancellations, refunds) into stock that is reserved, deducted or
released, never oversold, and publishes what becomes of it.

**Publishing.** CloudEvents 1.0 over Kafka in binary or structured mode, or plain JSON that carries `event_id` and
`occurred_at`. Header names are case-insensitive. Fields that are not named here are ignored; types are not coerced
(`"3"` is not a quantity). Quantities are integers from 1 to {MAX_QUANTITY:,}, an event has at most {MAX_LINES:,} lines
and {MAX_RECORD_BYTES:,} bytes; lines with the same product are added up. Use the key named at each message: Kafka keeps
order only within a key.

**Identity.** An event is identified by (source, id); a missing source is the topic's name. The same id with the same
data is a duplicate and changes nothing. The same id with other data is a producer's mistake and becomes a dead letter.

**Time.** `ce_time` (without it the record's timestamp), `time` or `occurred_at`: RFC 3339 with an offset, at most
{MAX_AHEAD_HOURS} hours ahead of the record's timestamp and of the worker's clock. A hold's time to live starts at it.

**Consuming.** Outgoing events are CloudEvents in binary mode; their bodies repeat id, type and time. Delivery is at
least once and ids are deterministic, so drop an id that you have seen. Ignore unknown fields. A topic of state is read
from its beginning: the last record of each key is the state, and no record is an event.

**Dead letters.** A record that breaks its contract, or that can never be applied, goes to `<topic>.dlq` with its
original key, value and headers, byte for byte, and headers that say why. Fix the cause, then publish it again.
"""


def asyncapi_document() -> Json:
    """Return the document; every message and schema is defined once, in `components`."""
    incoming, outgoing = list(TOPICS_IN.values()), list(TOPICS_OUT.values())
    channels: Json = {}
    operations: Json = {}
    messages: Json = {"dead_letter": dead_letter_message()}
    for topic in incoming:
        messages.update(incoming_messages(topic))
        channels[topic.name] = _incoming_channel(topic)
        operations[f"receive_{_key(topic.name)}"] = _receive(topic)
    for out in outgoing:
        messages.update({type_: outgoing_message(out, type_) for type_ in out.types})
        channels[out.name] = _channel(out.name, out.description, "out", list(out.types))
        operations[f"send_{_key(out.name)}"] = _send(out.name, "Publishes what became of the units.")
    for state in TOPICS_STATE.values():
        messages[state.name] = state_message(state)
        channels[state.name] = _channel(state.name, state.description, "state", [state.name])
        operations[f"send_{_key(state.name)}"] = _send(state.name, "Publishes the newest state of each key.")
    for topic in incoming:
        name = dlq_topic(topic.name)
        channels[name] = _channel(name, f"Dead letters of {topic.name}.", "dead-letters", ["dead_letter"])
        operations[f"send_{_key(name)}"] = _send(name, f"Keeps a record of {topic.name} that cannot be applied.")
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
                {"name": "state", "description": "Compacted topics: of each key the last record is the state."},
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
        "components": {"messages": messages, "schemas": component_schemas()},
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
        "bindings": {"kafka": {"topic": name, "bindingVersion": BINDING_VERSION}},
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
                "bindingVersion": BINDING_VERSION,
            }
        },
    }


def _send(name: str, summary: str) -> Json:
    return {"action": "send", "channel": {"$ref": f"#/channels/{name}"}, "title": f"Publish {name}", "summary": summary}
