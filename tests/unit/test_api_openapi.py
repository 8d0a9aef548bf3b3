"""The OpenAPI document says what the routes do, and the file in docs/contracts is the exported one."""

from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped] # published without types
import pytest
from fastapi.routing import APIRoute
from openapi_spec_validator import validate

from api.app import ROUTERS, openapi_document
from schemas.export import render

DOCUMENT = openapi_document()
FILE = Path(__file__).parents[2] / "docs" / "contracts" / "openapi.json"
OPERATIONS = {
    (method, path): operation for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
}
MODELS: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]


def test_the_committed_file_is_the_exported_one() -> None:
    """Whoever changes a route runs `inventory contracts export docs/contracts`."""
    assert FILE.read_text(encoding="utf-8") == render(DOCUMENT)


def test_the_document_is_openapi_3_1() -> None:
    """The specification's own schema accepts it, and every operation has a name of its own."""
    assert DOCUMENT["openapi"] == "3.1.0"
    validate(DOCUMENT)
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(names)) == len(names)


def test_every_route_is_in_the_document() -> None:
    """There is no route beside it."""
    routes = {
        (method.lower(), route.path)
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert routes == set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_error_of_an_operation_is_a_problem(operation: tuple[str, str]) -> None:
    """One shape for all of them, 422 included; what every request can meet is named by every operation."""
    responses = OPERATIONS[operation]["responses"]
    errors = {status: response for status, response in responses.items() if status[0] in "45"}
    assert errors.keys() >= {"401", "403", "422", "500", "503"}
    expected = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert [status for status, response in errors.items() if response["content"] != expected] == []
    assert "413" in responses or "requestBody" not in OPERATIONS[operation]


def _bodies() -> list[str]:
    """Return the models that are the whole body of a request or an answer."""
    found = {
        content["schema"]["$ref"].rpartition("/")[2]
        for operation in OPERATIONS.values()
        for part in (operation.get("requestBody", {}), *operation["responses"].values())
        for media_type, content in part.get("content", {}).items()
        if media_type != "text/event-stream"
    }
    return sorted(found)


@pytest.mark.parametrize("model", _bodies())
def test_every_body_has_an_example_that_is_one(model: str) -> None:
    """The example is accepted by the schema it stands in."""
    examples = MODELS[model]["examples"]
    schema = {"$ref": f"#/components/schemas/{model}", "components": DOCUMENT["components"]}
    assert examples
    for example in examples:
        jsonschema.Draft202012Validator(schema).validate(example)
