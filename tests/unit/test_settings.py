"""Settings come from the environment, are checked before anything starts, and keep their secrets."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from inventory.errors import OperatorError
from inventory.masking import MASK, mask_url
from inventory.settings import Settings, load_settings, printable


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("INVENTORY_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def certificate(tmp_path: Path) -> str:
    """A file that is there; what it holds is checked when a connection is made."""
    path = tmp_path / "file.pem"
    path.write_text("")
    return str(path)


def _problems(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    for name, value in variables.items():
        monkeypatch.setenv(f"INVENTORY_{name}", value)
    with pytest.raises(OperatorError) as caught:
        load_settings()
    return str(caught.value).splitlines()


def test_nothing_set_means_the_documented_defaults() -> None:
    """Without variables the program talks to servers on this machine."""
    settings = load_settings()
    assert (settings.kafka_bootstrap_servers, settings.database_url, settings.redis_url) == (
        "localhost:9092",
        "postgresql://localhost/inventory",
        None,
    )


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable replaces its default."""
    monkeypatch.setenv("INVENTORY_KAFKA_GROUP_ID", "other-group")
    assert load_settings().kafka_group_id == "other-group"


def test_an_empty_value_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass `${VARIABLE:-}` as an empty text."""
    monkeypatch.setenv("INVENTORY_REDIS_URL", "")
    monkeypatch.setenv("INVENTORY_BATCH_MAX_RECORDS", "")
    settings = load_settings()
    assert (settings.redis_url, settings.batch_max_records) == (None, 1000)


@pytest.mark.parametrize("text", ["30m", "1800", "1800s", "PT30M", "0.5h"])
def test_lengths_of_time_are_read_in_every_documented_form(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Half an hour may be written in five ways."""
    monkeypatch.setenv("INVENTORY_ORDER_RESERVATION_TTL", text)
    assert load_settings().order_reservation_ttl == timedelta(minutes=30)


@pytest.mark.parametrize("url", ["postgresql+asyncpg://h/d", "postgres://h/d", "postgresql://h/d"])
def test_every_spelling_of_a_postgresql_url_becomes_one(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Whoever reads the setting sees postgresql:// only."""
    monkeypatch.setenv("INVENTORY_DATABASE_URL", url)
    assert load_settings().database_url == "postgresql://h/d"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HTTP_PORT", "http", "INVENTORY_HTTP_PORT: input should be a valid integer"),
        ("HTTP_PORT", "65536", "INVENTORY_HTTP_PORT: input should be less than or equal to 65535"),
        ("CART_RESERVATION_TTL", "0", "INVENTORY_CART_RESERVATION_TTL: must be longer than 0"),
        ("ORDER_RESERVATION_TTL", "-5m", "INVENTORY_ORDER_RESERVATION_TTL: '-5m' is not a duration"),
        ("SWEEP_INTERVAL", "soon", "INVENTORY_SWEEP_INTERVAL: 'soon' is not a duration"),
        ("DATABASE_URL", "mysql://h/d", "INVENTORY_DATABASE_URL: must begin with postgresql://"),
        ("REDIS_URL", "localhost:6379", "INVENTORY_REDIS_URL: must begin with redis://"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1,b", "INVENTORY_KAFKA_BOOTSTRAP_SERVERS: entry 2 of 2 is not host:port"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1;b:2", "INVENTORY_KAFKA_BOOTSTRAP_SERVERS: entry 1 of 1 is not host:port"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1,,b:2", "INVENTORY_KAFKA_BOOTSTRAP_SERVERS: entry 2 of 3 is not host:port"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:65536", "INVENTORY_KAFKA_BOOTSTRAP_SERVERS: entry 2 of 2 is not host:port"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a..b:9092", "INVENTORY_KAFKA_BOOTSTRAP_SERVERS: entry 1 of 1 is not host:port"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS", "INVENTORY_KAFKA_SECURITY_PROTOCOL: input should be 'PLAINTEXT'"),
        ("KAFKA_TOPIC_PREFIX", "my shop", "INVENTORY_KAFKA_TOPIC_PREFIX: string should match pattern"),
        ("KAFKA_SSL_CAFILE", "/no/such.pem", "INVENTORY_KAFKA_SSL_CAFILE: there is no file /no/such.pem"),
        ("LATE_PAYMENT_POLICY", "ignore", "INVENTORY_LATE_PAYMENT_POLICY: input should be 'reserve_again'"),
        ("API_HS256_SECRET", "x" * 31, "INVENTORY_API_HS256_SECRET: must have at least 32 bytes"),
        ("API_JWKS_URL", "http://issuer.example/jwks", "INVENTORY_API_JWKS_URL: must begin with https://"),
        ("API_JWKS_URL", "https:///jwks", "INVENTORY_API_JWKS_URL: must begin with https://"),
        ("API_JWKS_FILE", "/no/such.json", "INVENTORY_API_JWKS_FILE: there is no file /no/such.json"),
        ("API_CORS_ORIGINS", "*", "INVENTORY_API_CORS_ORIGINS: must be origins"),
        ("API_CORS_ORIGINS", "https://a.example,https://*.example", "INVENTORY_API_CORS_ORIGINS: must be origins"),
        ("DEAD_LETTER_BREAKER_RATIO", "1.5", "INVENTORY_DEAD_LETTER_BREAKER_RATIO: input should be less than"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    """One wrong variable gives one line that begins with its name."""
    (problem,) = _problems(monkeypatch, **{name: value})
    assert problem.startswith(message)


@pytest.mark.parametrize("value", ["a:1,b:2", " a:1 , b:2 "])
def test_a_list_of_brokers_may_have_spaces(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Each address stands alone, and `inventory settings` shows the list as it is used."""
    monkeypatch.setenv("INVENTORY_KAFKA_BOOTSTRAP_SERVERS", value)
    settings = load_settings()
    assert ["a:1", "b:2"] == settings.kafka_brokers
    assert "a:1,b:2" == printable(settings)["kafka_bootstrap_servers"]


def test_every_problem_has_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator mends all at once, not one per attempt."""
    assert len(_problems(monkeypatch, HTTP_PORT="x", LOG_LEVEL="loud", HTTP_PROT="80")) == 3


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"KAFKA_HEARTBEAT_INTERVAL_MS": "10001"}, "is more than a third of INVENTORY_KAFKA_SESSION_TIMEOUT_MS=30000"),
        ({"KAFKA_SESSION_TIMEOUT_MS": "60001"}, "is longer than INVENTORY_KAFKA_REBALANCE_TIMEOUT_MS=60000"),
        ({"SHUTDOWN_TIMEOUT": "60s"}, "is not shorter than INVENTORY_KAFKA_REBALANCE_TIMEOUT_MS=60000"),
        ({"INBOX_RETENTION": "23h"}, "is shorter than INVENTORY_PARKED_EVENT_TTL=1d"),
        ({"KAFKA_SASL_USERNAME": "u"}, "INVENTORY_KAFKA_SASL_USERNAME is set, but"),
        ({"API_JWKS_URL": "https://i.example/k"}, "INVENTORY_API_TOKEN_ISSUER is missing, but INVENTORY_API_JWKS_URL"),
        (
            {"API_JWKS_URL": "https://i.example/k", "API_TOKEN_ISSUER": "i", "API_HS256_SECRET": "x" * 32},
            "INVENTORY_API_JWKS_URL and INVENTORY_API_HS256_SECRET are set together",
        ),
        ({"API_MAX_CART_TTL": "29m"}, "is shorter than INVENTORY_CART_RESERVATION_TTL=30m"),
        ({"API_LISTEN_PORT": "8080"}, "INVENTORY_API_LISTEN_PORT and INVENTORY_HTTP_PORT are both 8080"),
    ],
)
def test_an_unsafe_combination_does_not_start(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    """Values that are fine alone are refused together, and both are named."""
    (problem,) = _problems(monkeypatch, **variables)
    assert message in problem


def test_the_breaker_can_be_opened_as_its_message_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator whose records really are all bad raises the two limits that the log names, and nothing else."""
    monkeypatch.setenv("INVENTORY_DEAD_LETTER_BREAKER_CONSECUTIVE", "1000000")
    monkeypatch.setenv("INVENTORY_DEAD_LETTER_BREAKER_RATIO", "1")
    settings = load_settings()
    assert (1_000_000, 1.0) == (settings.dead_letter_breaker_consecutive, settings.dead_letter_breaker_ratio)


def test_values_on_the_edge_of_safe_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly a third, exactly equal, and one millisecond below are allowed."""
    monkeypatch.setenv("INVENTORY_KAFKA_SESSION_TIMEOUT_MS", "60000")
    monkeypatch.setenv("INVENTORY_KAFKA_HEARTBEAT_INTERVAL_MS", "20000")
    monkeypatch.setenv("INVENTORY_SHUTDOWN_TIMEOUT", "59999ms")
    monkeypatch.setenv("INVENTORY_INBOX_RETENTION", "24h")
    assert load_settings().kafka_heartbeat_interval_ms == 20_000


def test_sasl_without_credentials_names_all_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mechanism, user and password are each asked for."""
    problems = _problems(monkeypatch, KAFKA_SECURITY_PROTOCOL="SASL_SSL")
    assert [problem.split(" ")[0] for problem in problems] == [
        "INVENTORY_KAFKA_SASL_MECHANISM",
        "INVENTORY_KAFKA_SASL_USERNAME",
        "INVENTORY_KAFKA_SASL_PASSWORD",
    ]


def test_a_certificate_needs_its_key(monkeypatch: pytest.MonkeyPatch, certificate: str) -> None:
    """Half of mutual TLS is no TLS."""
    (problem,) = _problems(monkeypatch, KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_CERTFILE=certificate)
    assert "set both or neither" in problem


def test_tls_files_without_tls_do_not_start(monkeypatch: pytest.MonkeyPatch, certificate: str) -> None:
    """Nobody shall believe that a connection is protected when it is not."""
    (problem,) = _problems(monkeypatch, KAFKA_SSL_CAFILE=certificate)
    assert "INVENTORY_KAFKA_SSL_CAFILE is set, but INVENTORY_KAFKA_SECURITY_PROTOCOL=PLAINTEXT" in problem


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("KAFKA_BOOTSTRAP", "did you mean INVENTORY_KAFKA_BOOTSTRAP_SERVERS?"),
        ("CART_TTL", "did you mean INVENTORY_CART_RESERVATION_TTL?"),
        ("XYZ", "`inventory settings` lists all of them"),
    ],
)
def test_an_unknown_variable_is_named_with_the_nearest_real_one(
    monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    """A typing error is no silent default."""
    assert _problems(monkeypatch, **{name: "1"}) == [f"INVENTORY_{name} is not a setting: {hint}"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TEST_KAFKA", "localhost:9092"),
        ("REQUIRE_KAFKA", "1"),
        ("SERVICE_HOST", "10.0.0.1"),
        ("API_SERVICE_PORT_HTTP", "80"),
        ("PORT", "tcp://10.0.0.1:8080"),
        ("WORKER_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_variables_of_tests_and_kubernetes_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Kubernetes puts such names into every pod beside a Service called inventory."""
    monkeypatch.setenv(f"INVENTORY_{name}", value)
    assert load_settings().http_port == 8080


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://user:secret@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:se@cr/e:t@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("postgresql://host/db?user=u&password=secret&x=1", "postgresql://host/db?user=u&password=***&x=1"),
        ("postgresql:///db?host=/tmp/socket", "postgresql:///db?host=/tmp/socket"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
    ],
)
def test_passwords_within_urls_are_masked(url: str, masked: str) -> None:
    """A password is hidden wherever a URL may carry it, and nothing else is."""
    assert mask_url(url) == masked


def test_no_form_of_the_settings_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `inventory settings` nor a repr in a log or traceback gives a password away."""
    monkeypatch.setenv("INVENTORY_KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("INVENTORY_KAFKA_SASL_MECHANISM", "scram-sha-256")
    monkeypatch.setenv("INVENTORY_KAFKA_SASL_USERNAME", "worker")
    monkeypatch.setenv("INVENTORY_KAFKA_SASL_PASSWORD", "tiger")
    monkeypatch.setenv("INVENTORY_DATABASE_URL", "postgresql://u:tiger@h/d")
    monkeypatch.setenv("INVENTORY_REDIS_URL", "rediss://:tiger@h")
    monkeypatch.setenv("INVENTORY_API_HS256_SECRET", "tiger" * 7)
    settings = load_settings()
    assert "tiger" not in f"{printable(settings)} {settings!r} {settings}"
    assert printable(settings)["kafka_sasl_password"] == MASK


def test_an_error_does_not_repeat_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped URL is named without being shown."""
    assert "tiger" not in "".join(_problems(monkeypatch, DATABASE_URL="mysql://u:tiger@h/d"))
    with pytest.raises(ValidationError) as caught:
        Settings(database_url="mysql://u:tiger@h/d")
    assert "tiger" not in str(caught.value)


def test_every_setting_is_described() -> None:
    """Whoever meets a setting learns what it is, in a sentence."""
    short = [name for name, field in Settings.model_fields.items() if not (field.description or "").endswith(".")]
    assert short == []
