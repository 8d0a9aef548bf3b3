"""JSON Schema 2020-12 of each event, generated from the models that the worker validates with."""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import NullableSchema, WithDefaultSchema
from typing_extensions import override

from schemas.incoming import Contract
from schemas.topics import TOPICS_IN, TOPICS_OUT, TOPICS_STATE

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Json = dict[str, Any]


def event_models() -> dict[str, type[BaseModel]]:
    """Return every event type with its contract, incoming ones first."""
    models: dict[str, type[BaseModel]] = {name: topic.contract for name, topic in TOPICS_IN.items()}
    for topic in TOPICS_OUT.values():
        models.update(topic.types)
    return models


def event_schema(type_: str) -> Json:
    """Return the schema of the body of one event type, without references to other files."""
    return _document(event_models()[type_], f"urn:inventory-worker:event:{type_}", type_)


def state_schema(topic: str) -> Json:
    """Return the schema of the values on a topic of state."""
    return _document(TOPICS_STATE[topic].contract, f"urn:inventory-worker:state:{topic}", topic)


def _document(model: type[BaseModel], identifier: str, title: str) -> Json:
    schema = model_schema(model, "#/$defs/{model}")
    schema.pop("title")
    return {"$schema": DIALECT, "$id": identifier, "title": title, **schema}


def model_schema(model: type[BaseModel], reference: str) -> Json:
    """Return the schema of a model; `reference` is the template of references to its parts."""
    incoming = issubclass(model, Contract)
    schema = model.model_json_schema(
        ref_template=reference, schema_generator=_Readable if incoming else _ReadableOutgoing
    )
    for part in (schema, *schema.get("$defs", {}).values()):
        # The models forbid unknown fields to test the worker; consumers must accept them, or none could be added.
        part.pop("additionalProperties", None)
    return schema


class _Readable(GenerateJsonSchema):
    """Fields in the order of the models, without titles that repeat the names and without null defaults."""

    @override
    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value

    @override
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    @override
    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


class _ReadableOutgoing(_Readable):
    """Outgoing: an optional field is absent, never null."""

    @override
    def nullable_schema(self, schema: NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])
