"""Every setting of the program: environment only, prefix `INVENTORY_`, checked before anything starts.

`load_settings()` raises an `OperatorError` that names each wrong variable. Combinations that could lose events, promise
stock twice or leave a connection less protected than it looks are refused.
"""

import os
from datetime import timedelta
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from typing_extensions import override

from domain.model import LatePaymentPolicy
from inventory.durations import format_duration
from inventory.errors import OperatorError
from inventory.logs import LogFormat, LogLevel
from inventory.masking import MASK, mask_url
from inventory.setting_types import (
    Brokers,
    DatabaseUrl,
    Duration,
    ExistingFile,
    Format,
    JwksUrl,
    LatePayments,
    Level,
    Origins,
    RedisUrl,
    SaslMechanism,
    SecurityProtocol,
    SigningSecret,
)
from inventory.variables import PREFIX, unknown_variables, variable

HEARTBEATS_PER_SESSION = 3


class Settings(BaseSettings):
    """The program's settings; each attribute is the variable's name without prefix, in lower case."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    kafka_bootstrap_servers: Brokers = Field(
        "localhost:9092", description="Kafka brokers to connect to first: host:port, separated by commas."
    )
    kafka_security_protocol: SecurityProtocol = Field(
        "PLAINTEXT", description="Protocol to Kafka: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    kafka_sasl_mechanism: SaslMechanism | None = Field(
        None, description="With SASL: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."
    )
    kafka_sasl_username: str | None = Field(None, description="With SASL: the user's name.")
    kafka_sasl_password: SecretStr | None = Field(None, description="With SASL: the password. Never printed.")
    kafka_ssl_cafile: ExistingFile | None = Field(
        None, description="With TLS: PEM file of trusted authorities; the system's if not set."
    )
    kafka_ssl_certfile: ExistingFile | None = Field(
        None, description="With mutual TLS: PEM file of the client certificate."
    )
    kafka_ssl_keyfile: ExistingFile | None = Field(
        None, description="With mutual TLS: PEM file of the client's private key, unencrypted."
    )
    kafka_group_id: str = Field(
        "inventory-worker", min_length=1, max_length=255, description="Consumer group that all workers share."
    )
    kafka_session_timeout_ms: int = Field(
        30_000,
        ge=1000,
        le=1_800_000,
        description="Milliseconds without a heartbeat after which Kafka removes a worker from the group.",
    )
    kafka_heartbeat_interval_ms: int = Field(
        3000,
        ge=100,
        description="Milliseconds between heartbeats; at most a third of the session timeout.",
    )
    kafka_rebalance_timeout_ms: int = Field(
        60_000,
        ge=1000,
        le=3_600_000,
        description="Milliseconds that a worker has to finish its batch in a rebalance.",
    )
    kafka_fetch_max_wait_ms: int = Field(
        500,
        ge=1,
        le=60_000,
        description="Longest that a broker holds a fetch open without new records, in milliseconds.",
    )
    kafka_topic_prefix: str = Field(
        "",
        max_length=100,
        pattern=r"^[A-Za-z0-9._-]*$",
        description="Prefix of every topic's name, for shops that share a cluster.",
    )
    kafka_topic_partitions: int = Field(
        6, ge=1, le=10_000, description="Partitions of each topic that `inventory topics create` creates."
    )
    kafka_replication_factor: int = Field(
        1, ge=1, le=100, description="Replicas of each topic that `inventory topics create` creates; 3 in production."
    )
    kafka_dlq_retention: Duration = Field(
        timedelta(days=30),
        description="Retention of the dead letter topics that `inventory topics create` creates.",
    )
    database_url: DatabaseUrl = Field(
        "postgresql://localhost/inventory",
        description="PostgreSQL, as a postgresql:// URL; it may list several hosts: host1:5432,host2:5432.",
    )
    database_pool_size: int = Field(
        5, ge=2, le=500, description="Maximum number of database connections in the pool of one process."
    )
    redis_url: RedisUrl | None = Field(
        None, description="Redis, as a redis://, rediss:// or unix:// URL; the cache is off if not set."
    )
    cart_reservation_ttl: Duration = Field(
        timedelta(minutes=30), description="How long a cart holds units after its last update."
    )
    order_reservation_ttl: Duration = Field(timedelta(minutes=15), description="How long an unpaid order holds units.")
    default_low_stock_threshold: int = Field(
        10,
        ge=0,
        le=1_000_000,
        description="Low-stock threshold of products that do not have their own.",
    )
    late_payment_policy: LatePayments = Field(
        LatePaymentPolicy.RESERVE_AGAIN,
        description="A payment after the hold expired: reserve_again (deduct if enough is available) or shortfall.",
    )
    parked_event_ttl: Duration = Field(
        timedelta(hours=24),
        description="How long a payment, cancellation or refund waits for its order before it becomes a dead letter.",
    )
    batch_max_records: int = Field(1000, ge=1, le=10_000, description="Maximum number of records in one transaction.")
    inbox_retention: Duration = Field(
        timedelta(days=7), description="How long the inbox remembers event ids to suppress duplicates."
    )
    outbox_retention: Duration = Field(timedelta(days=1), description="How long published outbox rows are kept.")
    dead_letter_breaker_consecutive: int = Field(
        200, ge=1, description="Consecutive dead letters on one topic after which the consumer pauses."
    )
    dead_letter_breaker_ratio: float = Field(
        0.5, gt=0, le=1, description="Share of dead letters among the latest records above which the consumer pauses."
    )
    dead_letter_breaker_window: int = Field(
        1000, ge=1, le=1_000_000, description="Number of latest records over which that share is computed."
    )
    sweep_interval: Duration = Field(
        timedelta(seconds=1), description="Interval at which the sweeper looks for due holds and overdue parked events."
    )
    relay_poll_interval: Duration = Field(
        timedelta(seconds=0.5), description="Interval at which the relay polls the outbox if no commit wakes it."
    )
    relay_batch_size: int = Field(
        1000, ge=1, le=10_000, description="Maximum number of outbox rows published in one step."
    )
    levels_max_records_per_second: int = Field(
        2000,
        ge=10,
        le=1_000_000,
        description="Most records a second on `inventory.levels`; above it more changes of a product are merged.",
    )
    audit_interval: Duration = Field(timedelta(minutes=10), description="Interval between audits by a running worker.")
    retention_interval: Duration = Field(
        timedelta(minutes=1), description="Interval at which the inbox and the outbox are pruned."
    )
    http_host: str = Field("0.0.0.0", description="Address to serve health and metrics on.")  # noqa: S104 - a container is reached from outside
    http_port: int = Field(
        8080, ge=0, le=65_535, description="Port to serve /livez, /readyz and /metrics on; 0 picks a free one."
    )
    api_host: str = Field("0.0.0.0", description="Address on which `inventory api` serves the HTTP API.")  # noqa: S104 - same reason
    # Not API_PORT: Kubernetes sets INVENTORY_API_PORT beside a Service called inventory-api.
    api_listen_port: int = Field(8000, ge=0, le=65_535, description="Port of the HTTP API; 0 picks a free one.")
    api_token_issuer: str | None = Field(
        None, min_length=1, description="Issuer (`iss`) that every token must name; needed with a JWKS."
    )
    api_token_audience: str = Field(
        "inventory", min_length=1, description="Audience (`aud`) that every token must name."
    )
    api_jwks_url: JwksUrl | None = Field(
        None, description="Where the issuer publishes its keys (JWKS); https, or http on this machine only."
    )
    api_jwks_file: ExistingFile | None = Field(
        None, description="File with the issuer's keys (JWKS), in place of a URL."
    )
    api_hs256_secret: SigningSecret | None = Field(
        None,
        description="For development, in place of a JWKS: secret of 32 bytes or more that signs tokens. Never printed.",
    )
    api_roles_claim: str = Field(
        "roles",
        min_length=1,
        description="Claim with the roles: its name, or a path such as realm_access.roles; a list or words.",
    )
    api_max_cart_ttl: Duration = Field(
        timedelta(hours=24), description="Longest that a cart may ask to hold stock over HTTP."
    )
    api_cors_origins: Origins = Field(
        "", description="Origins whose pages may call the API, separated by commas; empty: none, CORS is off."
    )
    api_queue_limit: int = Field(
        1000, ge=1, le=100_000, description="Most writes that wait or are under way in one process; more get 503."
    )
    api_batch_max_requests: int = Field(200, ge=1, le=10_000, description="Most writes that share one transaction.")
    api_max_watches: int = Field(
        1000, ge=1, le=100_000, description="Most streams and waiting requests in one process; more get 503."
    )
    api_stream_lifetime: Duration = Field(
        timedelta(hours=1), description="Longest that a stream lasts; clients then connect again."
    )
    api_wait: Duration = Field(
        timedelta(seconds=5), description="Longest that a request waits for the database before it gets 503."
    )
    log_level: Level = Field(LogLevel.INFO, description="debug, info, warning or error; debug shows payloads.")
    log_format: Format = Field(
        LogFormat.AUTO, description="human, json, or auto: human on a terminal, JSON lines elsewhere."
    )
    shutdown_timeout: Duration = Field(
        timedelta(seconds=25), description="Time allowed on a stop to finish the batch and leave the group."
    )

    @property
    def kafka_brokers(self) -> list[str]:
        """The addresses in `kafka_bootstrap_servers`; FastStream takes a string for a single address."""
        return self.kafka_bootstrap_servers.split(",")

    @override
    def __repr_args__(self) -> Any:
        """Mask secrets in every repr, log line and traceback."""
        yield from printable(self).items()

    @model_validator(mode="after")
    def _combinations_are_safe(self) -> Self:
        problems = [*_kafka_security_problems(self), *_timing_problems(self), *_api_problems(self)]
        if problems:
            raise ValueError("\n".join(problems))
        return self


def load_settings() -> Settings:
    """Read the settings from the environment; raises OperatorError with one line per wrong variable."""
    problems = unknown_variables(os.environ, Settings.model_fields)
    settings = None
    try:
        settings = Settings()
    except ValidationError as error:
        problems += _validation_problems(error)
    if settings is None or problems:
        raise OperatorError("\n".join(problems))
    return settings


def printable(settings: Settings) -> dict[str, str]:
    """Return every setting as text, by field, with passwords masked; an unset one is empty."""
    return {field: _printable(getattr(settings, field)) for field in Settings.model_fields}


def _printable(value: object) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return MASK
        case timedelta():
            return format_duration(value)
        case str() if "://" in value:
            return mask_url(value)
        case _:
            return str(value)


def _kafka_security_problems(settings: Settings) -> list[str]:
    protocol = settings.kafka_security_protocol
    sasl = {
        "kafka_sasl_mechanism": settings.kafka_sasl_mechanism,
        "kafka_sasl_username": settings.kafka_sasl_username,
        "kafka_sasl_password": settings.kafka_sasl_password,
    }
    tls = {
        "kafka_ssl_cafile": settings.kafka_ssl_cafile,
        "kafka_ssl_certfile": settings.kafka_ssl_certfile,
        "kafka_ssl_keyfile": settings.kafka_ssl_keyfile,
    }
    wanted = f"{variable('kafka_security_protocol')}={protocol}"
    problems = []
    for field, value in sasl.items():
        if protocol.startswith("SASL") and value is None:
            problems.append(f"{variable(field)} is missing, but {wanted} needs it")
        if not protocol.startswith("SASL") and value is not None:
            problems.append(f"{variable(field)} is set, but {wanted} would ignore it; set SASL_SSL")
    problems += [
        f"{variable(field)} is set, but {wanted} would ignore it; set SSL or SASL_SSL"
        for field, value in tls.items()
        if value is not None and not protocol.endswith("SSL")
    ]
    if (settings.kafka_ssl_certfile is None) != (settings.kafka_ssl_keyfile is None):
        pair = f"{variable('kafka_ssl_certfile')} and {variable('kafka_ssl_keyfile')}"
        problems.append(f"{pair} go together: set both or neither")
    return problems


def _timing_problems(settings: Settings) -> list[str]:
    heartbeat = settings.kafka_heartbeat_interval_ms
    session = settings.kafka_session_timeout_ms
    rebalance = settings.kafka_rebalance_timeout_ms
    problems = []
    if heartbeat * HEARTBEATS_PER_SESSION > session:
        problems.append(
            f"{variable('kafka_heartbeat_interval_ms')}={heartbeat} is more than a third of "
            f"{variable('kafka_session_timeout_ms')}={session}: one lost heartbeat would end the worker's membership; "
            f"set at most {session // HEARTBEATS_PER_SESSION}"
        )
    if session > rebalance:
        problems.append(
            f"{variable('kafka_session_timeout_ms')}={session} is longer than "
            f"{variable('kafka_rebalance_timeout_ms')}={rebalance}: a dead worker would delay every rebalance; "
            f"set at most {rebalance}"
        )
    if settings.shutdown_timeout >= timedelta(milliseconds=rebalance):
        problems.append(
            f"{variable('shutdown_timeout')}={format_duration(settings.shutdown_timeout)} is not shorter than "
            f"{variable('kafka_rebalance_timeout_ms')}={rebalance}: partitions would move while the last batch "
            "is still being committed"
        )
    if settings.inbox_retention < settings.parked_event_ttl:
        problems.append(
            f"{variable('inbox_retention')}={format_duration(settings.inbox_retention)} is shorter than "
            f"{variable('parked_event_ttl')}={format_duration(settings.parked_event_ttl)}: "
            "an event could be forgotten while it waits, and then be applied twice"
        )
    return problems


def _api_problems(settings: Settings) -> list[str]:
    sources = [
        variable(field)
        for field in ("api_jwks_url", "api_jwks_file", "api_hs256_secret")
        if getattr(settings, field) is not None
    ]
    problems = []
    if len(sources) > 1:
        problems.append(
            f"{' and '.join(sources)} are set together: a token must have one kind of key; keep the one you mean"
        )
    if settings.api_token_issuer is None and (settings.api_jwks_url or settings.api_jwks_file):
        problems.append(
            f"{variable('api_token_issuer')} is missing, but {sources[0]} needs it: a key says who may sign, "
            "not for whom"
        )
    if settings.api_max_cart_ttl < settings.cart_reservation_ttl:
        problems.append(
            f"{variable('api_max_cart_ttl')}={format_duration(settings.api_max_cart_ttl)} is shorter than "
            f"{variable('cart_reservation_ttl')}={format_duration(settings.cart_reservation_ttl)}: "
            "a cart that asks for nothing would hold longer than one may ask for"
        )
    if settings.api_listen_port == settings.http_port != 0:
        problems.append(
            f"{variable('api_listen_port')} and {variable('http_port')} are both {settings.http_port}: health and "
            "metrics need a port of their own"
        )
    return problems


def _validation_problems(error: ValidationError) -> list[str]:
    problems: list[str] = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        message = detail["msg"].removeprefix("Value error, ")
        if detail["loc"]:
            message = f"{variable(str(detail['loc'][0]))}: {message[:1].lower()}{message[1:]}"
        problems += message.split("\n")
    return problems
