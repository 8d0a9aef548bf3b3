"""The application: its routes, its errors, and its OpenAPI document.

Around it stand `api.front` (token, ids, limits, access log) and, where origins are named, CORS.
"""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from api.auth import Authenticator
from api.front import Front
from api.links import LINKS
from api.problems import MEDIA_TYPE, ProblemError, internal_error
from api.routes import adjustments, carts, cleanup, deductions, low_stock, orders, products, stream, transactions
from api.services import Services

VERSION: Final = "1.0.0"
# Literal paths first: they win over a product of the same name.
ROUTERS: Final = (
    products.router,
    low_stock.router,
    stream.router,
    carts.router,
    orders.router,
    deductions.router,
    cleanup.router,
    adjustments.router,
    transactions.router,
    products.last_router,
)
# What a browser may send and read of another origin.
_CORS_METHODS: Final = ("GET", "POST", "PUT", "DELETE")
_CORS_HEADERS: Final = ("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "X-Request-Id")
_CORS_EXPOSED: Final = ("ETag", "Retry-After", "X-Request-Id")

Json = dict[str, Any]


def build_app() -> FastAPI:
    """Return the application without its services, which is enough for its OpenAPI document."""
    app = FastAPI(
        title="Inventory API",
        version=VERSION,
        description="Stock, reservations and corrections over HTTP, on the engine that events from Kafka go through.",
        # The document is a file of the contract; a server that shows it would do so without a token.
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    # Starlette would answer a bug itself, in plain text. It raises the error after this answer, and `front` logs it.
    app.add_exception_handler(Exception, _bug)
    return app


def serve_app(services: Services, authenticator: Authenticator, cors_origins: Sequence[str] = ()) -> ASGIApp:
    """Return the whole ASGI application."""
    app = build_app()
    app.state.services = services
    front: ASGIApp = Front(app, authenticator)
    if not cors_origins:
        return front
    return CORSMiddleware(
        front,
        allow_origins=list(cors_origins),
        allow_methods=_CORS_METHODS,
        allow_headers=_CORS_HEADERS,
        expose_headers=_CORS_EXPOSED,
    )


def openapi_document() -> Json:
    """Return the OpenAPI 3.1 document of the API."""
    app = build_app()
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, openapi_version="3.1.0"
    )
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["bearer"] = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    document["security"] = [{"bearer": []}]
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                _document_answer(status, response)
                if links := LINKS.get((operation["operationId"], status)):
                    response["links"] = links
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    return document


def _document_answer(status: str, response: Json) -> None:
    """Document what the routes cannot declare of an answer: the media type of problems, and shared headers."""
    headers = response.setdefault("headers", {})
    headers["X-Request-Id"] = {
        "description": "The request's own id, or ours: the same in the logs.",
        "schema": {"type": "string"},
    }
    if status.startswith("2") or status == "304":
        return
    # FastAPI gives it under the media type that the route has for its success.
    [described] = response["content"].values()
    response["content"] = {MEDIA_TYPE: described}
    if status == "401":
        headers["WWW-Authenticate"] = {"description": "Bearer.", "schema": {"type": "string"}}
    if status == "503":
        headers["Retry-After"] = {"description": "Seconds to wait.", "schema": {"type": "integer"}}


async def _problem(_request: Request, problem: Exception) -> Response:
    if not isinstance(problem, ProblemError):
        raise problem
    headers = {"Cache-Control": "no-store", **problem.headers}
    return Response(problem.body(), problem.status, headers, MEDIA_TYPE)


async def _bug(request: Request, _error: Exception) -> Response:
    return await _problem(request, internal_error())


async def _invalid(request: Request, error: Exception) -> Response:
    """Answer a request that its model refuses; what was sent is not repeated."""
    if not isinstance(error, RequestValidationError):
        raise error
    details = error.errors()
    return await _problem(
        request,
        ProblemError(
            "invalid_request",
            "The request is not valid.",
            errors=[
                {"location": [*map(_place, detail["loc"])], "message": _message(detail)} for detail in details[:100]
            ],
        ),
    )


def _place(part: object) -> str | int:
    # A client's own key can be anything: orjson refuses a lone surrogate.
    return part if isinstance(part, int) else str(part).encode("utf-8", "replace").decode()


def _message(detail: Json) -> str:
    message = str(detail["msg"])
    if detail["type"] == "json_invalid":
        message = f"not valid JSON: {detail.get('ctx', {}).get('error', '')}"
    return message.removeprefix("Value error, ").encode("utf-8", "replace").decode()


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer what Starlette itself refuses: an unknown path, a wrong method, a body that is too large."""
    if not isinstance(error, HTTPException):
        raise error
    match error.status_code:
        case 404:
            problem = ProblemError("not_found", "There is nothing here.")
        case 405:
            problem = ProblemError("method_not_allowed", "This cannot be done here.", dict(error.headers or {}))
        case 413:
            problem = ProblemError("request_too_large", "A request may have 1 MiB at most.")
        case _:
            problem = ProblemError("invalid_request", "The request is not valid.")
    return await _problem(request, problem)
