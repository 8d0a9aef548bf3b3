"""Types of the settings' values: how the text of a variable is read, and what it may be."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from domain.model import LatePaymentPolicy
from inventory.durations import format_duration, parse_duration
from inventory.logs import LogFormat, LogLevel

LONGEST_DURATION = timedelta(days=3650)
LAST_PORT = 65_535
MIN_SECRET_BYTES = 32

_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
_ORIGIN = re.compile(r"https?://[^/*\s?#@]+")
_BROKER = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^\s:/,\[\]]+):(?P<port>[0-9]{1,5})")


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _in_bounds(value: timedelta) -> timedelta:
    if not timedelta(0) < value <= LONGEST_DURATION:
        message = f"must be longer than 0 and at most {format_duration(LONGEST_DURATION)}"
        raise ValueError(message)
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _broker_addresses(servers: str) -> str:
    addresses = [address.strip() for address in servers.split(",")]
    for number, address in enumerate(addresses, start=1):
        if not _is_broker(address):
            message = f"entry {number} of {len(addresses)} is not host:port; separate several brokers with commas"
            raise ValueError(message)
    return ",".join(addresses)


def _is_broker(address: str) -> bool:
    found = _BROKER.fullmatch(address)
    if found is None or not 0 < int(found["port"]) <= LAST_PORT:
        return False
    try:
        # The resolver encodes the name first; Kafka's client does not handle the UnicodeError that this may raise.
        found["host"].encode("idna")
    except UnicodeError:
        return False
    return True


def _postgresql(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgresql", "postgres", "postgresql+asyncpg"}:
        message = "must begin with postgresql://"
        raise ValueError(message)
    return f"postgresql://{rest}"


def _redis(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        message = "must begin with redis://, rediss:// or unix://"
        raise ValueError(message)
    return url


def _protected(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return url
    message = "must begin with https://: whoever changes the answer on its way can sign tokens"
    raise ValueError(message)


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value().encode("utf-8", "surrogatepass")) < MIN_SECRET_BYTES:
        message = f"must have at least {MIN_SECRET_BYTES} bytes; `openssl rand -hex 32` makes one"
        raise ValueError(message)
    return secret


def _named_origins(origins: str) -> str:
    for origin in filter(None, (part.strip() for part in origins.split(","))):
        if _ORIGIN.fullmatch(origin) is None:
            message = "must be origins such as https://shop.example, separated by commas, each by its name"
            raise ValueError(message)
    return origins


def _existing(path: Path) -> Path:
    if not path.is_file():
        message = f"there is no file {path}"
        raise ValueError(message)
    return path


Duration = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_in_bounds)]
Brokers = Annotated[str, AfterValidator(_broker_addresses)]
SecurityProtocol = Annotated[Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], BeforeValidator(_upper)]
SaslMechanism = Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], BeforeValidator(_upper)]
DatabaseUrl = Annotated[str, AfterValidator(_postgresql)]
RedisUrl = Annotated[str, AfterValidator(_redis)]
JwksUrl = Annotated[str, AfterValidator(_protected)]
SigningSecret = Annotated[SecretStr, AfterValidator(_long_enough)]
Origins = Annotated[str, AfterValidator(_named_origins)]
ExistingFile = Annotated[Path, AfterValidator(_existing)]
LatePayments = Annotated[LatePaymentPolicy, BeforeValidator(_lower)]
Level = Annotated[LogLevel, BeforeValidator(_lower)]
Format = Annotated[LogFormat, BeforeValidator(_lower)]
