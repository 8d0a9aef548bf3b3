"""What every write has in common: its identity, its digest, and the answer that a repeat is given again.

The identity is the caller and the Idempotency-Key, remembered in the inbox as (`http:<subject>`, key). The same key
with another request is refused. A request without a key gets a random identity. While a request is under
way, in this process or another, a repeat of it waits for the first one to commit and is given its answer.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NamedTuple
from uuid import uuid4

import orjson
from fastapi import Header, Request, Response
from pydantic import BaseModel

from api.problems import KINDS, MEDIA_TYPE, ProblemError, problem_body
from api.services import Services, visit_of
from api.values import MAX_KEY_LENGTH
from domain.commands import CausedCommand
from domain.model import Cause, Decision, Disposition, Reason, Shortage, State
from engine.tasks import RequestTask, TaskDisposition
from storage.answers import Answer

_KEY: Final = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_LENGTH}}}")
_JSON: Final = "application/json"
# A refused request that names something unknown is 404; the rest conflicts with what is.
_DETAILS: Final[Mapping[Reason, str]] = {
    Reason.UNKNOWN_ORDER: "There is no such order.",
    Reason.UNKNOWN_CART: "There is no such cart.",
    Reason.UNKNOWN_PRODUCT: "There is no such product.",
    Reason.STALE_VERSION: "It has changed in the meantime. Please look again.",
    Reason.ORDER_REJECTED: "The order was rejected.",
    Reason.ORDER_CANCELLED: "The order was cancelled.",
    Reason.ORDER_PAID: "The order is paid already.",
    Reason.RESERVATION_EXPIRED: "The reservation has expired.",
    Reason.ADJUSTMENT_REFUSED: "One of the adjustments was refused, so none was applied.",
    Reason.BELOW_RESERVED: "That many units are reserved.",
    Reason.INSUFFICIENT_STOCK: "There are not enough units.",
}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Visible ASCII, at most 255 characters: the same request with the same key is applied once.",
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        pattern=r"^[!-~]+$",
    ),
]


class Identity(NamedTuple):
    """Whose request it is, and its key."""

    source: str
    key: str
    traceparent: str | None

    def cause(self, part: int | None = None) -> Cause:
        """Return the cause of the request, or of one of its parts; the engine sets its time."""
        event_id = self.key if part is None else f"{self.key}/{part}"
        return Cause(self.source, event_id, datetime.min.replace(tzinfo=UTC), self.traceparent)


def identify(request: Request, key: str | None, *, required: bool = False) -> Identity:
    """Return the identity of a request; raises ProblemError where a key is required and missing."""
    if key is None and required:
        raise ProblemError("idempotency_key_missing", "Send an Idempotency-Key, so that a retry cannot apply it twice.")
    visit = visit_of(request)
    return Identity(f"http:{visit.principal.subject}", key or f"request-{uuid4()}", visit.traceparent)


async def write(
    services: Services,
    request: Request,
    command: CausedCommand,
    content: object,
    answer: Callable[[Decision, State], Answer],
) -> Response:
    """Apply the command and return its answer; `content` is everything that the request says."""
    task = RequestTask(command, _digest(request, content), answer)
    async with services.waiting():
        verdict = await services.gatherer.apply(task)
    if verdict.answer is not None:
        return _response(verdict.answer)
    if verdict.disposition is TaskDisposition.CONFLICT:
        raise ProblemError("idempotency_key_reused", "This Idempotency-Key was used for another request.")
    raise ProblemError("conflict", "This request was answered before, and the answer is no longer kept.")


def _digest(request: Request, content: object) -> bytes:
    plain = content.model_dump(mode="json") if isinstance(content, BaseModel) else content
    said = [request.method, request.scope["path"], request.headers.get("if-match"), plain]
    return hashlib.blake2b(orjson.dumps(said, option=orjson.OPT_SORT_KEYS, default=str), digest_size=16).digest()


def _response(answer: Answer) -> Response:
    return Response(
        answer.body,
        answer.status,
        {"Cache-Control": "no-store", **dict(answer.headers)},
        _JSON if answer.status < 400 else MEDIA_TYPE,  # noqa: PLR2004 - where errors begin
    )


# --- answers, pure ------------------------------------------------------------------------------


def json_body(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer with `content` as JSON."""
    body = orjson.dumps(content, option=orjson.OPT_UTC_Z)
    return Answer(status, tuple((headers or {}).items()), body)


def refusal(decision: Decision, **extensions: Any) -> Answer:  # noqa: ANN401 - any JSON
    """Return the problem of a refused command."""
    if decision.disposition is Disposition.CONFLICT:
        return _problem("conflict", decision.message or "It exists with other content.")
    reason = decision.reason
    if reason is None:
        raise AssertionError("a refusal has a reason")
    name = reason.value if reason.value in KINDS else "conflict"
    return _problem(name, _DETAILS.get(reason, name), **extensions)


def shortage(lines: tuple[Shortage, ...]) -> Answer:
    """Return the problem of a shortage, with every short line."""
    products = ", ".join(line.product_id for line in lines[:3])
    return _problem(
        "insufficient_stock", f"There are not enough units of {products}.", lines=[short_line(line) for line in lines]
    )


def short_line(line: Shortage) -> dict[str, object]:
    """Return the JSON of `api.problems.ShortLine`."""
    return line._asdict()


def _problem(name: str, detail: str, **extensions: Any) -> Answer:  # noqa: ANN401 - any JSON
    return Answer(KINDS[name].status, (), problem_body(name, detail, **extensions))
