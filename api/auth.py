"""Who is calling: a JWT bearer token, verified with the key that it names, and what its roles allow.

| role | may |
|---|---|
| user | ask for stock; see and change the carts and orders of its own subject |
| service | the same for anyone; list products; deduct |
| admin | what a service may; correct stock, see the ledger, sweep |

Why a token was rejected is counted and logged. Its sender learns only that it is invalid, or that it has expired; the
latter only if its signature is good.
"""

import base64
import binascii
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson
from joserfc import jwt
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jws import JWSRegistry
from typing_extensions import override

from api.keys import KeySource

MAX_TOKEN_BYTES: Final = 8 * 1024
MAX_SUBJECT_LENGTH: Final = 200
LEEWAY_SECONDS: Final = 30
# A verified token is not verified again for this long: checking a signature costs more than most answers.
REMEMBER_SECONDS: Final = 60.0
MAX_REMEMBERED: Final = 10_000
_SEGMENTS: Final = 3
# Headers that name a key of the sender's own choice, or ask for what we do not do.
_REFUSED_HEADERS: Final = frozenset(("crit", "jku", "jwk", "x5u", "x5c", "b64", "enc", "zip"))


class Role(StrEnum):
    """What a token's holder may do."""

    USER = "user"
    SERVICE = "service"
    ADMIN = "admin"


class Principal(NamedTuple):
    """Who is calling, in which roles, and until when (Unix time) the token says so."""

    subject: str
    roles: frozenset[Role]
    expires_at: float = math.inf

    @property
    def acts_for_anyone(self) -> bool:
        """Whether carts and orders of others are within reach."""
        return Role.SERVICE in self.roles or Role.ADMIN in self.roles


class TokenRejection(StrEnum):
    """Why a token was not accepted, for metrics and logs."""

    MISSING = "missing"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    HEADER = "header"
    UNKNOWN_KEY = "unknown_key"
    ALGORITHM = "algorithm"
    SIGNATURE = "signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    SUBJECT = "subject"


class TokenRejectedError(Exception):
    """The token was not accepted; `reason` is for logs and metrics, not for the sender."""

    def __init__(self, reason: TokenRejection) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must say."""

    issuer: str
    audience: str
    roles_claim: str = "roles"


class _Header(NamedTuple):
    algorithm: str
    kid: str | None


class _Registry(JWSRegistry):
    """joserfc's algorithms without its warning that the name EdDSA is old: here the key says which curve it means."""

    @override
    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not allowed")
        return self.algorithms[name]


class Authenticator:
    """Verifies tokens and remembers for a minute which ones were good."""

    def __init__(
        self,
        keys: KeySource,
        rules: TokenRules,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._rules = rules
        self._clock = clock
        self._monotonic = monotonic
        self._remembered: OrderedDict[bytes, tuple[Principal, float, float]] = OrderedDict()

    async def authenticate(self, token: bytes) -> Principal:
        """Return who holds the token.

        Raises TokenRejectedError, or KeysUnavailableError while the issuer's keys were never fetched.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenRejectedError(TokenRejection.TOO_LARGE)
        fingerprint = sha256(token).digest()
        remembered = self._remembered.get(fingerprint)
        if remembered is not None:
            principal, expires, until = remembered
            if self._monotonic() < until and self._clock() < expires + LEEWAY_SECONDS:
                return principal
            del self._remembered[fingerprint]
        claims = await self._verified(token)
        principal = self._principal(claims)
        self._remembered[fingerprint] = (principal, claims["exp"], self._monotonic() + REMEMBER_SECONDS)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return principal

    async def _verified(self, token: bytes) -> Mapping[str, Any]:
        """Return the claims of a token that one of our keys has signed."""
        header = read_header(token)
        found = await self._keys.find(header.kid)
        if found is None:
            raise TokenRejectedError(TokenRejection.UNKNOWN_KEY)
        if header.algorithm not in found.algorithms:
            raise TokenRejectedError(TokenRejection.ALGORITHM)
        allowed = [header.algorithm]
        # Issuers add headers of their own; those that matter were refused above.
        registry = _Registry(algorithms=allowed, strict_check_header=False)
        try:
            return jwt.decode(token, found.key, algorithms=allowed, registry=registry).claims
        except (JoseError, ValueError, RecursionError) as error:
            raise TokenRejectedError(TokenRejection.SIGNATURE) from error

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        now = self._clock()
        expires = _number(claims.get("exp"))
        if expires is None:
            raise TokenRejectedError(TokenRejection.MALFORMED)
        if expires + LEEWAY_SECONDS <= now:
            raise TokenRejectedError(TokenRejection.EXPIRED)
        for name in ("nbf", "iat"):
            moment = _number(claims.get(name, now))
            if moment is None:
                raise TokenRejectedError(TokenRejection.MALFORMED)
            if moment - LEEWAY_SECONDS > now:
                raise TokenRejectedError(TokenRejection.NOT_YET_VALID)
        if claims.get("iss") != self._rules.issuer:
            raise TokenRejectedError(TokenRejection.ISSUER)
        audience = claims.get("aud")
        if self._rules.audience not in (audience if isinstance(audience, list) else [audience]):
            raise TokenRejectedError(TokenRejection.AUDIENCE)
        subject = claims.get("sub")
        if not isinstance(subject, str) or not is_subject(subject):
            raise TokenRejectedError(TokenRejection.SUBJECT)
        return Principal(subject, roles_of(claims, self._rules.roles_claim), expires)


def bearer_token(values: list[bytes]) -> bytes:
    """Return the token of the Authorization header; two headers are refused, as a proxy may have checked the other."""
    if not values:
        raise TokenRejectedError(TokenRejection.MISSING)
    scheme, _, token = values[0].partition(b" ")
    if len(values) > 1 or scheme.lower() != b"bearer" or not token:
        raise TokenRejectedError(TokenRejection.MALFORMED)
    return token


def read_header(token: bytes) -> _Header:
    """Return what the token's header says of its key; everything else about the token is still unknown."""
    segments = token.split(b".")
    if len(segments) != _SEGMENTS:
        raise TokenRejectedError(TokenRejection.MALFORMED)
    try:
        encoded = segments[0]
        header = orjson.loads(base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise TokenRejectedError(TokenRejection.MALFORMED) from error
    if not isinstance(header, dict) or _REFUSED_HEADERS & header.keys():
        raise TokenRejectedError(TokenRejection.HEADER)
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
        raise TokenRejectedError(TokenRejection.HEADER)
    return _Header(algorithm, kid)


def is_subject(subject: str) -> bool:
    """Say whether the text can own carts and orders: it becomes part of ids in the database and in events."""
    return 0 < len(subject) <= MAX_SUBJECT_LENGTH and subject.isprintable()


def roles_of(claims: Mapping[str, Any], path: str) -> frozenset[Role]:
    """Return the roles that a token names, at a claim of this name or at the path that the dots make of it."""
    value: Any = claims.get(path)
    if value is None and "." in path:
        value = claims
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
    words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(role for role in Role if role.value in words)


def development_token(secret: str, rules: TokenRules, principal: Principal, seconds: int, now: int) -> str:
    """Return a token signed with the development secret, as `inventory token` prints it."""
    from joserfc.jwk import OctKey  # noqa: PLC0415 - the API itself never signs

    claims: dict[str, Any] = {
        "iss": rules.issuer,
        "aud": rules.audience,
        "sub": principal.subject,
        "iat": now,
        "exp": now + seconds,
    }
    place = claims
    *parents, last = rules.roles_claim.split(".")
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = sorted(role.value for role in principal.roles)
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret.encode()), algorithms=["HS256"])


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value == value else None  # noqa: PLR0124 - not NaN
