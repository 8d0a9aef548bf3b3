"""JSON Schema 2020-12 of each event, made from the models, so that it cannot say anything else than they do."""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import NullableSchema, WithDefaultSchema
from typing_extensions import override

from schemas.incoming import Contract
from schemas.topics import TOPICS_IN, TOPICS_OUT

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Json = dict[str, Any]


def event_models() -> dict[str, type[BaseModel]]:
    """Return every event type with its contract, incoming ones first."""
    models: dict[str, type[BaseModel]] = {name: topic.contract for name, topic in TOPICS_IN.items()}
    for topic in TOPICS_OUT.values():
        models.update(topic.types)
    return models


def event_schema(type_: str) -> Json:
    """Return the schema of the body of one event type, complete in itself."""
    schema = model_schema(event_models()[type_], "#/$defs/{model}")
    schema.pop("title")
    return {"$schema": DIALECT, "$id": f"urn:inventory-worker:event:{type_}", "title": type_, **schema}


def model_schema(model: type[BaseModel], reference: str) -> Json:
    """Return the schema of a model, with references to its parts spelled as `reference` says."""
    incoming = issubclass(model, Contract)
    schema = model.model_json_schema(
        ref_template=reference, schema_generator=_Readable if incoming else _ReadableOutgoing
    )
    for part in (schema, *schema.get("$defs", {}).values()):
        # The worker is held to the fields it promises; a reader must not be, or no field could ever be added.
        part.pop("additionalProperties", None)
    return schema


class _Readable(GenerateJsonSchema):
    """In the order of the models, without what repeats a field's name or says that nothing is the default."""

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
    """What goes out leaves optional fields out, rather than say null."""

    @override
    def nullable_schema(self, schema: NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])
