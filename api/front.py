"""What every request passes before its route: an id, a trace, a path, a limit on its body, and its token.

A plain ASGI layer, because it runs for each request. It answers 401 before anything else of the request is looked at,
the path included.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, NamedTuple
from uuid import uuid4

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from api import metrics
from api.auth import Authenticator, Principal, TokenRejectedError, TokenRejection, bearer_token
from api.keys import KeysUnavailableError
from api.problems import MEDIA_TYPE, ProblemError, internal_error

logger = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 1024 * 1024
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_TRACEPARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Visit(NamedTuple):
    """What is known of a request beside its parameters."""

    principal: Principal
    request_id: str
    traceparent: str | None


class Front:
    """The layer around the application."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request; anything but HTTP is passed on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        head = _Head(scope["headers"])
        answer = _Answer(send, head.request_id)
        # Percent-encoded as it came: `a%2Fb` is one segment, and a product's id is decoded where it is read.
        inner = {**scope, "path": scope["raw_path"].partition(b"?")[0].decode("latin-1")}
        subject = None
        try:
            try:
                principal = await self._authenticate(head)
                subject = principal.subject
                inner["visit"] = Visit(principal, head.request_id, head.traceparent)
                await self._app(inner, _limited(receive, head), answer.send)
            except ProblemError as problem:
                await answer.problem(problem)
            except Exception:
                logger.exception(
                    "A request failed, and that is a bug in the API", extra={"request_id": head.request_id}
                )
                await answer.problem(internal_error())
        finally:
            _note(inner, answer, head, subject, time.perf_counter() - started)

    async def _authenticate(self, head: "_Head") -> Principal:
        try:
            return await self._authenticator.authenticate(bearer_token(head.authorization))
        except TokenRejectedError as rejection:
            metrics.REJECTED_TOKENS.labels(rejection.reason.value).inc()
            logger.info("Token not accepted: %s", rejection.reason, extra={"request_id": head.request_id})
            raise _unauthenticated(rejection.reason) from None
        except KeysUnavailableError:
            raise ProblemError("keys_unavailable", "Please try again in a moment.") from None


class _Head:
    """The headers that matter here, found in one pass."""

    __slots__ = ("authorization", "content_length", "request_id", "traceparent")

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.authorization: list[bytes] = []
        self.content_length = 0
        self.request_id = ""
        self.traceparent: str | None = None
        for name, value in headers:
            if name == b"authorization":
                self.authorization.append(value)
            elif name == b"content-length":
                self.content_length = int(value) if value.isdigit() else 0
            elif name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                self.request_id = value.decode()
            elif name == b"traceparent" and _TRACEPARENT.fullmatch(value):
                self.traceparent = value.decode()
        if not self.request_id:
            self.request_id = uuid4().hex


class _Answer:
    """Sends the answer with the request's id, and remembers its status."""

    __slots__ = ("_request_id", "_send", "status")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id.encode()
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", self._request_id),
                (b"x-content-type-options", b"nosniff"),
            ]
        await self._send(message)

    async def problem(self, problem: ProblemError) -> None:
        """Answer with a problem, unless an answer is already on its way."""
        if self.status:
            return
        body = problem.body()
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            *((name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()),
        ]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _unauthenticated(reason: TokenRejection) -> ProblemError:
    match reason:
        case TokenRejection.MISSING:
            name, detail, challenge = "unauthenticated", "Please sign in.", ""
        case TokenRejection.EXPIRED:
            name, detail, challenge = "token_expired", "Please sign in again.", ', error="invalid_token"'
        case _:
            name, detail, challenge = "invalid_token", "Please sign in again.", ', error="invalid_token"'
    return ProblemError(name, detail, {"WWW-Authenticate": f'Bearer realm="inventory"{challenge}'})


def _limited(receive: Receive, head: _Head) -> Receive:
    """Give the body, and refuse one beyond the limit, whatever its length was said to be."""
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MAX_BODY_BYTES or head.content_length > MAX_BODY_BYTES:
            # FastAPI lets an HTTPException through and makes a 400 of anything else.
            raise HTTPException(413)
        return message

    return limited


def _note(scope: Message, answer: _Answer, head: _Head, subject: str | None, seconds: float) -> None:
    """Count the request and write its line of the access log; neither the query nor any header is in it."""
    template = getattr(scope.get("route"), "path", "unmatched")
    method = scope["method"] if scope["method"] in METHODS else "other"
    metrics.REQUESTS.labels(template, method, answer.status).inc()
    if "exempt_from_duration" not in scope:
        metrics.REQUEST_DURATION.labels(template, method).observe(seconds)
    logger.info(
        "%s %s %d",
        method,
        template,
        answer.status,
        extra={
            "method": method,
            "route": template,
            "path": scope["path"],
            "status": answer.status,
            "duration_ms": round(seconds * 1000, 2),
            "request_id": head.request_id,
            **({} if subject is None else {"subject": subject}),
            **({} if head.traceparent is None else {"traceparent": head.traceparent}),
        },
    )
