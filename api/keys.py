"""Sources of the keys that verify tokens: one secret, a file, or the issuer's URL.

A key source says which algorithms it stands for, so that a public key is never taken for a secret. Keys of a URL are
kept: they are fetched again when they are old, and for a `kid` that is not among them, at a bounded rate and once for
all who wait. While the issuer is away, the keys that are known stay in use.
"""

import asyncio
import json
import logging
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, OctKey, OKPKey, RSAKey
from typing_extensions import override

logger = logging.getLogger(__name__)

FETCH_SECONDS: Final = 5.0
MAX_JWKS_BYTES: Final = 1024 * 1024
MAX_KEYS: Final = 100
# Keys of this age are fetched again, so that one that the issuer withdrew is not accepted for long.
REFRESH_SECONDS: Final = 600.0
# Minimum interval between fetches: tokens with made-up key ids must not cause more.
MIN_FETCH_SECONDS: Final = 10.0
MIN_RSA_BITS: Final = 2048
SHARED_KEY_ALGORITHM: Final = "HS256"


class KeysUnavailableError(Exception):
    """No keys could be fetched yet, so no token can be judged."""


class SigningKey(NamedTuple):
    """A key, and the algorithms that a signature by it may use."""

    kid: str | None
    key: Key
    algorithms: tuple[str, ...]


class KeySource(Protocol):
    """Finds the key that a token names."""

    async def find(self, kid: str | None) -> SigningKey | None:
        """Return the key with this id, or the only key for a token that names none; None where there is none.

        Raises KeysUnavailableError while no keys were ever fetched.
        """
        ...


class FixedKeys:
    """Keys that do not change while the process runs: the shared secret, or those of a file."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self._keys = tuple(keys)

    async def find(self, kid: str | None) -> SigningKey | None:
        """Return the key with this id, or the only key for a token that names none."""
        return _find(self._keys, kid)


class IssuerKeys:
    """The keys at the issuer's URL, fetched with `fetch` (blocking, in a thread)."""

    def __init__(
        self, url: str, fetch: Callable[[str], bytes] | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._fetch = fetch or fetch_jwks
        self._monotonic = monotonic
        self._keys: tuple[SigningKey, ...] = ()
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> SigningKey | None:
        """Return the key with this id, or the only key for a token that names none."""
        found = _find(self._keys, kid)
        if found is not None:
            if self._is_old() and self._may_fetch():
                self._start_fetch()  # in the background: the key that is known is still the issuer's
            return found
        if self._fetching is not None or self._may_fetch():
            await asyncio.shield(self._start_fetch())
            found = _find(self._keys, kid)
        if found is None and self._fetched_at is None:
            raise KeysUnavailableError
        return found

    def _is_old(self) -> bool:
        return self._fetched_at is None or self._monotonic() - self._fetched_at > REFRESH_SECONDS

    def _may_fetch(self) -> bool:
        return self._tried_at is None or self._monotonic() - self._tried_at >= MIN_FETCH_SECONDS

    def _start_fetch(self) -> "asyncio.Task[None]":
        if self._fetching is None:
            self._tried_at = self._monotonic()
            self._fetching = asyncio.create_task(self._refresh(), name="jwks")
        return self._fetching

    async def _refresh(self) -> None:
        try:
            keys = read_jwks(await asyncio.to_thread(self._fetch, self._url))
        except (OSError, ValueError) as error:
            known = f"the {len(self._keys)} keys known stay in use" if self._keys else "no token can be verified"
            logger.warning("The issuer's keys at %s could not be fetched, %s: %s", self._url, known, error)
        else:
            self._keys, self._fetched_at = keys, self._monotonic()
        finally:
            self._fetching = None


def secret_key(secret: str) -> SigningKey:
    """Return the shared secret as a key; it verifies HS256 and nothing else."""
    return SigningKey(None, OctKey.import_key(secret.encode()), (SHARED_KEY_ALGORITHM,))


def read_jwks_file(path: Path) -> FixedKeys:
    """Read a JWKS file; raises ValueError where it holds no usable key, OSError where it cannot be read."""
    return FixedKeys(read_jwks(path.read_bytes()))


def read_jwks(text: bytes) -> tuple[SigningKey, ...]:
    """Return the keys of a JWKS that can verify signatures; keys for other uses are left out.

    Raises ValueError where the text is no JWKS or has no usable key.
    """
    document = json.loads(text)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("a JWKS has a list named keys")  # noqa: TRY004 - a wrong document, not a wrong argument
    keys = tuple(key for entry in entries[:MAX_KEYS] if (key := _signing_key(entry)) is not None)
    if not keys:
        raise ValueError("there is no key for RS256, PS256, ES256 or EdDSA in the JWKS")
    return keys


def _signing_key(entry: Any) -> SigningKey | None:  # noqa: ANN401 - parsed JSON
    """Return a public signing key of the kinds that we take; symmetric keys are none, whatever the set says."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
        return None
    try:
        key = JWKRegistry.import_key(entry)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    algorithms = _algorithms(key)
    if "alg" in entry:
        algorithms = tuple(algorithm for algorithm in algorithms if algorithm == entry["alg"])
    kid = entry.get("kid")
    if not algorithms or not (kid is None or isinstance(kid, str)):
        return None
    return SigningKey(kid, key, algorithms)


def _algorithms(key: Key) -> tuple[str, ...]:
    match key:
        case RSAKey() if key.raw_value.key_size >= MIN_RSA_BITS:
            return ("RS256", "PS256")
        case ECKey() if key.curve_name == "P-256":
            return ("ES256",)
        case OKPKey() if key.curve_name == "Ed25519":
            return ("EdDSA", "Ed25519")
        case _:
            return ()


def _find(keys: Sequence[SigningKey], kid: str | None) -> SigningKey | None:
    if len(keys) == 1 and (kid is None or keys[0].kid is None):
        return keys[0]
    return next((key for key in keys if key.kid == kid), None) if kid is not None else None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Keys come from the address that the settings name, not from where it points to."""

    @override
    def redirect_request(self, *_args: Any, **_keywords: Any) -> None:
        return None


def fetch_jwks(url: str) -> bytes:
    """Fetch a JWKS, bounded in time and size; blocking. Raises OSError where it cannot be fetched."""
    opener = urllib.request.build_opener(_NoRedirects)
    with opener.open(url, timeout=FETCH_SECONDS) as response:
        body: bytes = response.read(MAX_JWKS_BYTES + 1)
    if len(body) > MAX_JWKS_BYTES:
        raise OSError("the JWKS is larger than 1 MiB")
    return body
