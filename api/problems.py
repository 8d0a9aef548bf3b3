"""Errors as RFC 9457 problems: one table of all that the API can answer, and their JSON.

The type of a problem is `urn:inventory:problem:` and its name here. Where a rule of the shop refuses a request, the
name is the refusal's reason, the same word that the events carry.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:inventory:problem:"


class Kind(NamedTuple):
    """A kind of problem: its status, and the title that never changes."""

    status: int
    title: str


KINDS: Final[Mapping[str, Kind]] = {
    "idempotency_key_missing": Kind(400, "An Idempotency-Key is required"),
    "invalid_cursor": Kind(400, "The cursor is not one of this list"),
    "unauthenticated": Kind(401, "A bearer token is required"),
    "invalid_token": Kind(401, "The bearer token is not valid"),
    "token_expired": Kind(401, "The bearer token has expired"),
    "missing_role": Kind(403, "The token's roles do not allow this"),
    "not_found": Kind(404, "There is nothing at this path"),
    "unknown_product": Kind(404, "There is no such product"),
    "unknown_cart": Kind(404, "There is no such cart"),
    "unknown_order": Kind(404, "There is no such order"),
    "method_not_allowed": Kind(405, "This path does not take the method"),
    "insufficient_stock": Kind(409, "There is less stock than requested"),
    "below_reserved": Kind(409, "Stock cannot go below what is reserved"),
    "already_paid": Kind(409, "The order was paid before with another payment"),
    "order_rejected": Kind(409, "The order was rejected"),
    "order_cancelled": Kind(409, "The order was cancelled"),
    "order_paid": Kind(409, "The order is paid"),
    "reservation_expired": Kind(409, "The reservation has expired"),
    "conflict": Kind(409, "The order exists with other lines"),
    "adjustment_refused": Kind(409, "An adjustment was refused"),
    "stale_version": Kind(412, "The product has changed"),
    "request_too_large": Kind(413, "The request is too large"),
    "invalid_request": Kind(422, "The request is not valid"),
    "idempotency_key_reused": Kind(422, "The Idempotency-Key was used for another request"),
    "precondition_required": Kind(428, "An If-Match is required"),
    "internal_error": Kind(500, "The server failed"),
    "overloaded": Kind(503, "There are too many requests at the moment"),
    "database_unavailable": Kind(503, "The database does not answer"),
    "keys_unavailable": Kind(503, "Tokens cannot be verified at the moment"),
}


class InvalidField(BaseModel):
    """What is wrong with one part of the request."""

    location: list[str | int] = Field(description="Where: body, path, query or header, then the way to the field.")
    message: str = Field(description="What is wrong there.")


class ShortLine(BaseModel):
    """A line of which there is less than requested."""

    product_id: str = Field(description="The product.")
    requested: int = Field(description="How many units were requested.")
    available: int = Field(description="How many could be had.")
    reason: str = Field(description="insufficient_stock or unknown_product.")


class Problem(BaseModel):
    """An error as RFC 9457 describes it; `detail` may be shown to a shopper."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": f"{TYPE_PREFIX}insufficient_stock",
                    "title": KINDS["insufficient_stock"].title,
                    "status": 409,
                    "detail": "There are not enough units of mug-blue.",
                    "lines": [
                        {
                            "product_id": "mug-blue",
                            "requested": 3,
                            "available": 1,
                            "reason": "insufficient_stock",
                        }
                    ],
                }
            ]
        }
    )

    type: str = Field(description=f"{TYPE_PREFIX} and the problem's name, such as a refusal's reason.")
    title: str = Field(description="What kind of problem it is; the same for each of its kind.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened this time, in a sentence that a shopper may read.")
    lines: list[ShortLine] | None = Field(None, description="With a shortage: every short line.")
    results: list[JsonValue] | None = Field(None, description="With adjustment_refused: a result for each adjustment.")
    errors: list[InvalidField] | None = Field(None, description="With invalid_request: every part that is wrong.")


class ProblemError(Exception):
    """The request is answered with a problem."""

    def __init__(self, name: str, detail: str, headers: Mapping[str, str] | None = None, **extensions: object) -> None:
        super().__init__(name)
        self.name = name
        self.detail = detail
        self.headers = dict(headers or {})
        self.extensions = extensions
        if KINDS[name].status == 503:  # noqa: PLR2004 - temporary: say when to try again
            self.headers.setdefault("Retry-After", "1")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return KINDS[self.name].status

    def body(self) -> bytes:
        """The problem as JSON."""
        return problem_body(self.name, self.detail, **self.extensions)


def internal_error() -> ProblemError:
    """Return the problem that a bug is answered with."""
    return ProblemError("internal_error", "Something went wrong on our side.")


def problem_body(name: str, detail: str, **extensions: object) -> bytes:
    """Return a problem as JSON; the same problem has the same bytes."""
    kind = KINDS[name]
    return orjson.dumps(
        {
            "type": TYPE_PREFIX + name,
            "title": kind.title,
            "status": kind.status,
            "detail": detail,
            **extensions,
        }
    )
