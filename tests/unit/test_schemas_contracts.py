"""The exported contracts say what the worker does, and the files in docs/contracts are the exported ones."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped] # published without types
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from schemas import topics
from schemas.asyncapi import asyncapi_document
from schemas.envelope import decode
from schemas.export import documents, export
from schemas.json_schema import event_models, event_schema, state_schema
from schemas.outgoing import DEAD_LETTER_REASONS, LowStock
from schemas.topics import LEVELS, TOPICS_IN, TOPICS_OUT, TOPICS_STATE, dlq_topic

CONTRACTS = Path(__file__).parents[2] / "docs" / "contracts"
NOON = 1_772_366_400_000
ALL_TYPES = list(event_models())
OUT_TYPES = [type_ for type_ in ALL_TYPES if type_ not in TOPICS_IN]


def examples_of(type_: str) -> list[dict[str, Any]]:
    """Return the examples in the exported schema."""
    examples: list[dict[str, Any]] = event_schema(type_)["examples"]
    return examples


def accepts(schema: dict[str, Any], body: object) -> bool:
    """Say whether a validator of the exported schema lets the body pass."""
    return bool(jsonschema.Draft202012Validator(schema).is_valid(body))


def validates(model: type[BaseModel], body: object) -> bool:
    """Say whether the worker lets the body pass."""
    try:
        model.model_validate(body)
    except ValidationError:
        return False
    return True


def test_the_committed_files_are_the_exported_ones() -> None:
    """Whoever changes a contract runs `inventory contracts export docs/contracts`."""
    committed = {str(path.relative_to(CONTRACTS)): path.read_text() for path in CONTRACTS.rglob("*.json")}
    committed.pop("openapi.json")  # made of the API's routes; its own test compares it
    assert committed == documents()


def test_export_writes_what_it_returns(tmp_path: Path) -> None:
    """Every file is below the directory, which is made if need be, and is there afterwards."""
    written = export(tmp_path / "new")
    assert sorted(tmp_path.rglob("*.json")) == sorted(written)
    assert len(ALL_TYPES) + len(TOPICS_STATE) + 1 == len(written)


@pytest.mark.parametrize("type_", ALL_TYPES)
def test_schemas_are_valid_and_described(type_: str) -> None:
    """Each event has a valid 2020-12 schema, a description of itself and of every field, and an example that fits."""
    schema = event_schema(type_)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for part in (schema, *schema.get("$defs", {}).values()):
        assert part["description"]
        assert all(field["description"] for field in part["properties"].values()), part
    assert schema["examples"]
    for example in schema["examples"]:
        jsonschema.Draft202012Validator(schema).validate(example)
        event_models()[type_].model_validate(example)


IDENTIFIERS = st.sampled_from(["x", "", "y" * 256, "y" * 257, "a\x00b", "\u20ac"])
NUMBERS = st.sampled_from([-1, 0, 1, 1_000_000, 1_000_001, 2**63 - 1, 2**63])
WRONG: st.SearchStrategy[Any] = st.sampled_from([None, True, False, "3", [], {}, 1.5])
LINES = st.lists(
    st.fixed_dictionaries({}, optional={"product_id": IDENTIFIERS | WRONG, "quantity": NUMBERS | WRONG, "note": WRONG}),
    max_size=2,
)
ANY_VALUE = IDENTIFIERS | NUMBERS | WRONG | LINES | st.sampled_from(["ADD", "SUBTRACT", "SET", "r" * 1_001])


@pytest.mark.parametrize("type_", list(TOPICS_IN))
@given(data=st.data())
def test_the_schema_accepts_what_the_worker_accepts(type_: str, data: st.DataObject) -> None:
    """A producer that validates against the exported schema learns what the worker would say."""
    body = dict(data.draw(st.sampled_from(examples_of(type_))))
    names = st.sampled_from(list(event_schema(type_)["properties"]))
    for name in data.draw(st.lists(names, max_size=3)):
        if data.draw(st.booleans()):
            body.pop(name, None)
        else:
            body[name] = data.draw(ANY_VALUE)
    assert validates(TOPICS_IN[type_].contract, body) == accepts(event_schema(type_), body), body


def test_the_thousand_and_first_line() -> None:
    """The exported schema bounds the lines as the worker does."""
    line = {"product_id": "m", "quantity": 1}
    for count, expected in ((1_000, True), (1_001, False)):
        body = {"order_id": "o", "items": [line] * count}
        assert expected is accepts(event_schema("order.created"), body)
        assert expected is validates(TOPICS_IN["order.created"].contract, body)


@pytest.mark.parametrize("type_", OUT_TYPES)
def test_outgoing_bodies_leave_out_rather_than_say_null(type_: str) -> None:
    """A reader never meets null; a field that the contract does not name is a bug of ours, not of theirs."""
    body = examples_of(type_)[0]
    model = event_models()[type_]
    assert not validates(model, {**body, "user_id": None})
    assert not validates(model, {**body, "surprise": 1})
    assert accepts(event_schema(type_), {**body, "surprise": 1})
    assert not accepts(event_schema(type_), {**body, "type": "inventory.other"})


def test_the_schema_of_a_level_is_valid_and_described() -> None:
    """The state of a product has a schema as the events have, an example that fits, and its key among its fields."""
    schema = state_schema(LEVELS)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["description"]
    assert all(field["description"] for field in schema["properties"].values())
    for example in schema["examples"]:
        jsonschema.Draft202012Validator(schema).validate(example)
        TOPICS_STATE[LEVELS].contract.model_validate(example)
    assert TOPICS_STATE[LEVELS].key_field in schema["required"]


def test_a_stock_level_adds_up() -> None:
    """What is available is what is on hand and not reserved."""
    with pytest.raises(ValidationError, match="available 9 is not on_hand 12 - reserved 4"):
        LowStock.model_validate({**examples_of("inventory.low_stock")[0], "available": 9})


def test_an_expired_hold_has_one_owner() -> None:
    """An order's or a cart's, never both, never none."""
    body = examples_of("inventory.reservation.expired")[0]
    ownerless = {name: value for name, value in body.items() if name != "order_id"}
    for owners, expected in (({"order_id": "o"}, True), ({"cart_id": "c"}, True), ({}, False)):
        assert expected is validates(event_models()["inventory.reservation.expired"], {**ownerless, **owners})
        assert expected is accepts(event_schema("inventory.reservation.expired"), {**ownerless, **owners})
    assert not accepts(event_schema("inventory.reservation.expired"), {**body, "cart_id": "c"})


def test_the_table_of_topics_is_consistent() -> None:
    """Keys are fields of the contracts, names are names, and every constant for a type is in the table."""
    for name, topic in TOPICS_IN.items():
        assert name == topic.name
        assert topic.contract.model_fields[topic.key_field].is_required()
    for name, out in TOPICS_OUT.items():
        assert name == out.name
        for model in out.types.values():
            assert set(model.model_fields) & set(out.key_fields)
    types = {type_ for out in TOPICS_OUT.values() for type_ in out.types}
    constants = {
        value for name, value in vars(topics).items() if name.isupper() and isinstance(value, str) and "." in value
    }
    assert types | {topics.RESERVATIONS, *TOPICS_STATE} == constants
    assert dlq_topic("order.created") == "order.created.dlq"


def test_asyncapi_names_every_channel() -> None:
    """Every topic in, out and of dead letters is a channel with one operation."""
    document = asyncapi_document()
    expected = {*TOPICS_IN, *TOPICS_OUT, *TOPICS_STATE, *(dlq_topic(name) for name in TOPICS_IN)}
    assert expected == set(document["channels"])
    assert expected == {
        operation["channel"]["$ref"].removeprefix("#/channels/") for operation in document["operations"].values()
    }
    assert {name: "receive" if name in TOPICS_IN else "send" for name in sorted(expected)} == {
        operation["channel"]["$ref"].removeprefix("#/channels/"): operation["action"]
        for operation in document["operations"].values()
    }


def test_asyncapi_references_lead_somewhere() -> None:
    """No reference dangles, and nothing lies in the components that nobody refers to."""
    text = json.dumps(asyncapi_document())
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', text))
    for reference in references:
        node: Any = asyncapi_document()
        for step in reference.split("/"):
            node = node[step]
        assert node
    components = asyncapi_document()["components"]
    offered = {f"components/{kind}/{name}" for kind, parts in components.items() for name in parts}
    assert offered <= references


def resolve(node: Any, document: dict[str, Any]) -> Any:
    """Return the node with its references replaced by what they refer to."""
    if isinstance(node, list):
        return [resolve(part, document) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target: Any = document
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return resolve(target, document)
    return {name: resolve(part, document) for name, part in node.items()}


def messages() -> list[tuple[str, dict[str, Any]]]:
    """Return the document's messages by name, with references resolved."""
    document = asyncapi_document()
    return [(name, resolve(message, document)) for name, message in document["components"]["messages"].items()]


@pytest.mark.parametrize(("name", "message"), messages(), ids=lambda value: value if isinstance(value, str) else "")
def test_asyncapi_examples_fit_their_schemas(name: str, message: dict[str, Any]) -> None:
    """Each message has a summary, a key, and examples whose headers and body keep what it says."""
    assert message["summary"]
    assert message["description"]
    assert message["bindings"]["kafka"]["key"]["description"]
    assert message["examples"], name
    for example in message["examples"]:
        jsonschema.Draft7Validator(message["headers"]).validate(example.get("headers", {}))
        jsonschema.Draft7Validator(message["payload"]).validate(example["payload"])


@pytest.mark.parametrize("mode", ["plain", "binary", "structured"])
@pytest.mark.parametrize("topic", list(TOPICS_IN))
def test_asyncapi_examples_are_accepted_by_the_worker(topic: str, mode: str) -> None:
    """Whoever copies an example from the document publishes a valid event."""
    for example in dict(messages())[f"{topic}.{mode}"]["examples"]:
        headers = [(name, value.encode()) for name, value in example.get("headers", {}).items()]
        event = decode(topic, orjson.dumps(example["payload"]), headers, NOON)
        assert ("evt-1001", topic) == (event.id, event.topic)


@pytest.mark.parametrize("topic", list(TOPICS_IN))
def test_the_envelope_schemas_refuse_what_the_worker_refuses(topic: str) -> None:
    """Ids, types and content types are bounded in the document as they are in the worker."""
    found = dict(messages())
    headers = jsonschema.Draft7Validator(found[f"{topic}.binary"]["headers"])
    for bad in ({}, {"ce_id": ""}, {"ce_id": "e", "ce_type": f"{topic}.v2"}, {"ce_id": "e", "ce_specversion": "0.3"}):
        assert not headers.is_valid(bad), bad
    assert headers.is_valid({"ce_id": "e", "ce_type": f"com.example.{topic}"})
    plain = jsonschema.Draft7Validator(found[f"{topic}.plain"]["payload"])
    body = found[f"{topic}.plain"]["examples"][0]["payload"]
    assert plain.is_valid(body)
    for name in ("event_id", "occurred_at"):
        assert not plain.is_valid({key: value for key, value in body.items() if key != name})


def test_dead_letter_reasons_are_told() -> None:
    """The document lists the closed list of reasons."""
    headers = dict(messages())["dead_letter"]["headers"]["properties"]
    assert list(DEAD_LETTER_REASONS) == headers["x-dlq-reason"]["enum"]
