"""Tokens: who is let in, and everything that was ever tried to get in without a key."""

import asyncio
import base64
import hmac
import json
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from api.auth import Authenticator, Principal, Role, TokenRejectedError, TokenRejection, TokenRules, bearer_token
from api.keys import FixedKeys, IssuerKeys, KeysUnavailableError, read_jwks, secret_key

RULES = TokenRules("https://issuer.example", "inventory")
NOW = time.time()
RSA = RSAKey.generate_key(2048, {"kid": "rsa-1"})
OTHER_RSA = RSAKey.generate_key(2048, {"kid": "rsa-1"})
EC = ECKey.generate_key("P-256", {"kid": "ec-1"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed-1"})
SECRET = "an-hs256-secret-of-more-than-32-bytes"  # noqa: S105 - a test's own


def jwks(*keys: Key, **extra: str) -> bytes:
    """Return the document that an issuer publishes."""
    return json.dumps({"keys": [{**key.as_dict(private=False), **extra} for key in keys]}).encode()


def claims(**changed: Any) -> dict[str, Any]:
    """Return good claims, changed; None takes one away."""
    good = {
        "iss": RULES.issuer,
        "aud": "inventory",
        "sub": "ann",
        "roles": ["user"],
        "iat": int(NOW),
        "exp": int(NOW) + 300,
    }
    return {name: value for name, value in (good | changed).items() if value is not None}


def signed(key: Key, algorithm: str, kid: str | None = None, **changed: Any) -> bytes:
    """Return a token."""
    header = {"alg": algorithm} | ({} if kid is None else {"kid": kid})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # EdDSA, by the name that issuers give it
        return jwt.encode(header, claims(**changed), key, algorithms=[algorithm]).encode()


def unsigned(header: Mapping[str, Any], body: bytes | None = None, signature: bytes = b"") -> bytes:
    """Return a token put together by hand."""
    parts = (json.dumps(header).encode(), body or json.dumps(claims()).encode(), signature)
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def by_hand(body: bytes | None = None, **added: Any) -> bytes:
    """Return a token well signed by the RSA key, with more in its header, or claims that joserfc would not write."""
    text = unsigned({"alg": "RS256", "kid": "rsa-1", **added}, body).rpartition(b".")[0]
    signature = RSA.raw_value.sign(text, *_pkcs1())  # type: ignore[union-attr] # a private key
    return text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")


def _pkcs1() -> tuple[Any, Any]:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415 - signs what joserfc refuses
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - same

    return PKCS1v15(), SHA256()


def hmac_signed(secret: bytes) -> bytes:
    """Return a token whose HMAC takes the bytes for a secret; joserfc would not make one of a public key."""
    text = unsigned({"alg": "HS256", "kid": "rsa-1"}).rpartition(b".")[0]
    return text + b"." + base64.urlsafe_b64encode(hmac.digest(secret, text, "sha256")).rstrip(b"=")


def public_pem() -> bytes:
    """Return the public key as an attacker finds it."""
    return RSA.as_pem(private=False)


PUBLIC = Authenticator(FixedKeys(read_jwks(jwks(RSA, EC, ED))), RULES, clock=lambda: NOW)
SHARED = Authenticator(FixedKeys([secret_key(SECRET)]), RULES, clock=lambda: NOW)


@pytest.mark.parametrize(
    ("authenticator", "token"),
    [
        (PUBLIC, signed(RSA, "RS256", "rsa-1")),
        (PUBLIC, signed(RSA, "PS256", "rsa-1")),
        (PUBLIC, signed(EC, "ES256", "ec-1")),
        (PUBLIC, signed(ED, "EdDSA", "ed-1")),
        (PUBLIC, signed(ED, "Ed25519", "ed-1")),
        (SHARED, signed(OctKey.import_key(SECRET), "HS256")),
        (PUBLIC, signed(RSA, "RS256", "rsa-1", aud=["other", "inventory"])),
        (PUBLIC, signed(RSA, "RS256", "rsa-1", exp=int(NOW) - 20)),
        (PUBLIC, signed(RSA, "RS256", "rsa-1", nbf=int(NOW) + 20)),
        (PUBLIC, by_hand(x5t="of the issuer's own")),
    ],
    ids=[
        "RS256",
        "PS256",
        "ES256",
        "EdDSA",
        "Ed25519",
        "HS256",
        "one of several audiences",
        "skew after",
        "skew before",
        "x5t",
    ],
)
async def test_a_good_token_is_let_in(authenticator: Authenticator, token: bytes) -> None:
    """Each algorithm of the list, and clocks that differ by less than half a minute."""
    principal = await authenticator.authenticate(token)
    assert principal == Principal("ann", frozenset([Role.USER]), principal.expires_at)


ATTACKS: Mapping[str, tuple[Authenticator, bytes, TokenRejection]] = {
    "alg none": (PUBLIC, unsigned({"alg": "none", "kid": "rsa-1"}), TokenRejection.ALGORITHM),
    "alg None": (PUBLIC, unsigned({"alg": "NoNe", "kid": "rsa-1"}), TokenRejection.ALGORITHM),
    "alg none where there is a secret": (SHARED, unsigned({"alg": "none"}), TokenRejection.ALGORITHM),
    "alg missing": (PUBLIC, unsigned({"kid": "rsa-1"}), TokenRejection.HEADER),
    "alg a list": (PUBLIC, unsigned({"alg": ["RS256"], "kid": "rsa-1"}), TokenRejection.HEADER),
    "HS256 with the public key": (
        PUBLIC,
        hmac_signed(public_pem()),
        TokenRejection.ALGORITHM,
    ),
    "HS384 with the secret": (SHARED, signed(OctKey.import_key(SECRET), "HS384"), TokenRejection.ALGORITHM),
    "RS256 where there is a secret": (SHARED, signed(RSA, "RS256"), TokenRejection.ALGORITHM),
    "RS512 by the right key": (PUBLIC, signed(RSA, "RS512", "rsa-1"), TokenRejection.ALGORITHM),
    "ES256 in the name of the RSA key": (PUBLIC, signed(EC, "ES256", "rsa-1"), TokenRejection.ALGORITHM),
    "another key under the same kid": (PUBLIC, signed(OTHER_RSA, "RS256", "rsa-1"), TokenRejection.SIGNATURE),
    "another secret": (SHARED, signed(OctKey.import_key(SECRET + "!"), "HS256"), TokenRejection.SIGNATURE),
    "signature cut off": (
        PUBLIC,
        signed(RSA, "RS256", "rsa-1").rpartition(b".")[0] + b".",
        TokenRejection.SIGNATURE,
    ),
    "no kid where there are several keys": (PUBLIC, signed(RSA, "RS256"), TokenRejection.UNKNOWN_KEY),
    "kid a path": (PUBLIC, signed(RSA, "RS256", "../../../../dev/null"), TokenRejection.UNKNOWN_KEY),
    "kid SQL": (PUBLIC, signed(RSA, "RS256", "x' UNION SELECT 'a' --"), TokenRejection.UNKNOWN_KEY),
    "kid a number": (PUBLIC, unsigned({"alg": "RS256", "kid": 1}), TokenRejection.HEADER),
    "jku": (PUBLIC, by_hand(jku="https://evil.example/jwks"), TokenRejection.HEADER),
    "jwk": (PUBLIC, by_hand(jwk=OTHER_RSA.as_dict(private=False)), TokenRejection.HEADER),
    "x5u": (PUBLIC, by_hand(x5u="https://evil.example/chain"), TokenRejection.HEADER),
    "x5c": (PUBLIC, by_hand(x5c=["MIIB"]), TokenRejection.HEADER),
    "crit": (PUBLIC, by_hand(crit=["exp"]), TokenRejection.HEADER),
    "crit that asks for b64": (PUBLIC, by_hand(crit=["b64"], b64=False), TokenRejection.HEADER),
    "encrypted": (PUBLIC, unsigned({"alg": "dir", "enc": "A128GCM"}) + b"..", TokenRejection.MALFORMED),
    "64 KiB": (PUBLIC, signed(RSA, "RS256", "rsa-1", filler="x" * 65_536), TokenRejection.TOO_LARGE),
    "a header of a million brackets": (PUBLIC, b"W1tb" * 1000 + b".e30.AA", TokenRejection.MALFORMED),
    "not three parts": (PUBLIC, b"abc.def", TokenRejection.MALFORMED),
    "not base64": (PUBLIC, b"@@@.e30.AA", TokenRejection.MALFORMED),
    "a header that is a list": (PUBLIC, b"W10.e30.AA", TokenRejection.HEADER),
    "expired": (PUBLIC, signed(RSA, "RS256", "rsa-1", exp=int(NOW) - 60), TokenRejection.EXPIRED),
    "expired long ago": (PUBLIC, signed(RSA, "RS256", "rsa-1", exp=-1), TokenRejection.EXPIRED),
    "no exp": (PUBLIC, signed(RSA, "RS256", "rsa-1", exp=None), TokenRejection.MALFORMED),
    "exp a text": (PUBLIC, signed(RSA, "RS256", "rsa-1", exp="never"), TokenRejection.MALFORMED),
    "exp true": (PUBLIC, signed(RSA, "RS256", "rsa-1", exp=True), TokenRejection.MALFORMED),
    "not yet valid": (PUBLIC, signed(RSA, "RS256", "rsa-1", nbf=int(NOW) + 120), TokenRejection.NOT_YET_VALID),
    "issued tomorrow": (PUBLIC, signed(RSA, "RS256", "rsa-1", iat=int(NOW) + 86_400), TokenRejection.NOT_YET_VALID),
    "another issuer": (PUBLIC, signed(RSA, "RS256", "rsa-1", iss="https://evil.example"), TokenRejection.ISSUER),
    "no issuer": (PUBLIC, signed(RSA, "RS256", "rsa-1", iss=None), TokenRejection.ISSUER),
    "another audience": (PUBLIC, signed(RSA, "RS256", "rsa-1", aud="billing"), TokenRejection.AUDIENCE),
    "no audience": (PUBLIC, signed(RSA, "RS256", "rsa-1", aud=None), TokenRejection.AUDIENCE),
    "part of the audience's name": (PUBLIC, signed(RSA, "RS256", "rsa-1", aud="inventory-2"), TokenRejection.AUDIENCE),
    "no subject": (PUBLIC, signed(RSA, "RS256", "rsa-1", sub=None), TokenRejection.SUBJECT),
    "an empty subject": (PUBLIC, signed(RSA, "RS256", "rsa-1", sub=""), TokenRejection.SUBJECT),
    "a subject that is a number": (PUBLIC, signed(RSA, "RS256", "rsa-1", sub=7), TokenRejection.SUBJECT),
    "a subject with NUL": (PUBLIC, signed(RSA, "RS256", "rsa-1", sub="a\0b"), TokenRejection.SUBJECT),
    "a subject with a line break": (PUBLIC, signed(RSA, "RS256", "rsa-1", sub="a\nb"), TokenRejection.SUBJECT),
    "a subject with a lone surrogate": (
        PUBLIC,
        by_hand(json.dumps(claims(sub="\ud800")).encode()),
        TokenRejection.SUBJECT,
    ),
    "a subject without end": (PUBLIC, signed(RSA, "RS256", "rsa-1", sub="x" * 201), TokenRejection.SUBJECT),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_an_attack_is_refused(attack: str) -> None:
    """Each by the check that is meant for it, and at once a second time."""
    authenticator, token, reason = ATTACKS[attack]
    for _ in range(2):
        with pytest.raises(TokenRejectedError) as refused:
            await authenticator.authenticate(token)
        assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], TokenRejection.MISSING),
        ([b"Basic YTpi"], TokenRejection.MALFORMED),
        ([b"Bearer"], TokenRejection.MALFORMED),
        ([b"Bearer "], TokenRejection.MALFORMED),
        ([b"Bearer a.b.c", b"Bearer d.e.f"], TokenRejection.MALFORMED),
    ],
)
def test_only_one_bearer_token_is_one(headers: list[bytes], reason: TokenRejection) -> None:
    """With two, a proxy in front could have judged the other."""
    with pytest.raises(TokenRejectedError) as refused:
        bearer_token(headers)
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("path", "found", "roles"),
    [
        ("roles", {"roles": ["admin", "other"]}, {Role.ADMIN}),
        ("realm_access.roles", {"realm_access": {"roles": ["service", "user"]}}, {Role.SERVICE, Role.USER}),
        ("scope", {"scope": "openid user"}, {Role.USER}),
        ("https://shop.example/roles", {"https://shop.example/roles": ["admin"]}, {Role.ADMIN}),
        ("roles", {"roles": "administrator"}, set()),
        ("roles", {"roles": {"admin": True}}, set()),
        ("realm_access.roles", {"realm_access": "admin"}, set()),
        ("roles", {"roles": None}, set()),
        ("roles", {"roles": [["admin"], 7]}, set()),
    ],
)
async def test_roles_are_read_where_the_setting_says(path: str, found: dict[str, Any], roles: set[Role]) -> None:
    """As Keycloak, Auth0 and plain OAuth scopes have them; what is no role is none."""
    rules = TokenRules(RULES.issuer, RULES.audience, path)
    authenticator = Authenticator(FixedKeys(read_jwks(jwks(RSA))), rules, clock=lambda: NOW)
    token = signed(RSA, "RS256", "rsa-1", **({"roles": None} | found))
    assert (await authenticator.authenticate(token)).roles == roles


async def test_a_token_that_was_good_is_refused_when_it_expires() -> None:
    """What is remembered of a token does not outlive it."""
    clock = [NOW]
    authenticator = Authenticator(FixedKeys(read_jwks(jwks(RSA))), RULES, clock=lambda: clock[0])
    token = signed(RSA, "RS256", "rsa-1", exp=int(NOW) + 5)
    await authenticator.authenticate(token)
    clock[0] += 40
    with pytest.raises(TokenRejectedError) as refused:
        await authenticator.authenticate(token)
    assert refused.value.reason is TokenRejection.EXPIRED


class Issuer:
    """An issuer's JWKS that a test changes or takes away, and a clock."""

    def __init__(self, *keys: Key) -> None:
        self.document: bytes | None = jwks(*keys)
        self.asked = 0
        self.now = 100.0
        self.keys = IssuerKeys("https://issuer.example/jwks", self.fetch, lambda: self.now)

    def fetch(self, _url: str) -> bytes:
        """Answer as the issuer does."""
        self.asked += 1
        if self.document is None:
            raise OSError("no route to the issuer")
        return self.document


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the fetch is in a thread and sets no event
            await asyncio.sleep(0.001)


async def test_keys_are_fetched_once_for_all_who_wait() -> None:
    """A hundred requests at the start are one fetch."""
    issuer = Issuer(RSA)
    found = await asyncio.gather(*(issuer.keys.find("rsa-1") for _ in range(100)))
    assert (issuer.asked, {key.kid for key in found if key}) == (1, {"rsa-1"})


async def test_an_unknown_key_id_is_looked_up_at_a_bounded_rate() -> None:
    """A rotated key is found at once, and made-up ids do not make requests."""
    issuer = Issuer(RSA)
    await issuer.keys.find("rsa-1")
    issuer.document = jwks(RSA, EC)
    for number in range(50):
        assert await issuer.keys.find(f"made-up-{number}") is None
    assert issuer.asked == 1
    issuer.now += 10
    found = await issuer.keys.find("ec-1")
    assert (issuer.asked, found is not None) == (2, True)


async def test_known_keys_stay_in_use_while_the_issuer_is_away() -> None:
    """Old keys are asked for again beside the request, and kept when that fails."""
    issuer = Issuer(RSA)
    await issuer.keys.find("rsa-1")
    issuer.document, issuer.now = None, issuer.now + 601
    assert await issuer.keys.find("rsa-1") is not None
    await _until(lambda: issuer.asked == 2)
    assert await issuer.keys.find("rsa-1") is not None
    assert issuer.asked == 2


async def test_a_withdrawn_key_is_gone_after_the_next_fetch() -> None:
    """Ten minutes are the longest that it stays."""
    issuer = Issuer(RSA, EC)
    await issuer.keys.find("rsa-1")
    issuer.document, issuer.now = jwks(EC), issuer.now + 601
    await issuer.keys.find("rsa-1")
    await _until(lambda: issuer.asked == 2)
    await asyncio.sleep(0)
    assert await issuer.keys.find("rsa-1") is None


async def test_without_any_key_no_token_is_judged() -> None:
    """An issuer that was never reached is our trouble, not the token's; its answer is asked for again later."""
    issuer = Issuer(RSA)
    document, issuer.document = issuer.document, None
    for _ in range(3):
        with pytest.raises(KeysUnavailableError):
            await issuer.keys.find("rsa-1")
    assert issuer.asked == 1
    issuer.document, issuer.now = document, issuer.now + 10
    assert await issuer.keys.find("rsa-1") is not None


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b'{"keys": {}}',
        b'{"keys": []}',
        json.dumps({"keys": [OctKey.import_key(SECRET).as_dict()]}).encode(),
        jwks(RSA, use="enc"),
        jwks(RSA, alg="RS512"),
        jwks(ECKey.generate_key("P-384")),
        b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}, 7, null, {"kty": "RSA"}]}',
    ],
)
def test_a_document_without_a_usable_key_is_no_jwks(document: bytes) -> None:
    """Symmetric, small, unknown and broken keys are not taken, nor keys for encryption."""
    with pytest.raises(ValueError, match=r"JWKS|Expecting"):
        read_jwks(document)


def test_a_key_is_held_to_the_algorithm_that_it_names() -> None:
    """An issuer that says PS256 does not sign RS256."""
    assert read_jwks(jwks(RSA, alg="PS256"))[0].algorithms == ("PS256",)
