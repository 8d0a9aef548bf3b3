"""Answers with a body of JSON bytes, and how the routes declare what they answer."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from fastapi import Response

from api.problems import Problem

# The parts of the contract that every route shares: the token, the roles, the request's form, the database.
COMMON: Final = (401, 403, 422, 500, 503)
_DESCRIPTIONS: Final[Mapping[int, str]] = {
    400: "The request lacks something that it needs.",
    401: "No bearer token, or one that is not valid.",
    403: "The token's roles do not allow this.",
    404: "There is no such product, cart or order.",
    409: "A rule of the shop refuses it.",
    412: "The product has changed since the version in If-Match.",
    413: "The body is larger than 1 MiB.",
    422: "The request is not valid.",
    428: "If-Match is required.",
    500: "A bug in the API.",
    503: "Too many requests, or the database does not answer: come back after Retry-After.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the problems that a route can answer beside those that all can, for its OpenAPI."""
    return {status: {"model": Problem, "description": _DESCRIPTIONS[status]} for status in sorted({*COMMON, *statuses})}


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer whose body is `content` as JSON."""
    return Response(orjson.dumps(content, option=orjson.OPT_UTC_Z), status, headers, "application/json")
