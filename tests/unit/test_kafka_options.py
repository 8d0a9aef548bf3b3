"""Every Kafka client gets its addresses and credentials from one place."""

from pathlib import Path
from typing import Any

import pytest
from faststream.kafka.security import parse_security

from inventory.errors import OperatorError
from inventory.kafka import broker_security, client_options, producer_options
from inventory.settings import Settings
from workers.consuming.subscription import build_broker

SASL: dict[str, Any] = {"kafka_sasl_username": "worker", "kafka_sasl_password": "tiger"}


def test_plain_connections_carry_no_credentials() -> None:
    """The default is the plain protocol and nothing else."""
    assert client_options(Settings(kafka_bootstrap_servers="a:1,b:2")) == {
        "bootstrap_servers": ["a:1", "b:2"],
        "client_id": "inventory",
        "security_protocol": "PLAINTEXT",
    }


@pytest.mark.parametrize("servers", ["a:1,b:2", "a:1, b:2", " a:1 ,\tb:2 "])
async def test_every_client_gets_each_broker_of_the_list(servers: str) -> None:
    """FastStream wraps a string in a list of one, so a list of addresses must reach it as a list."""
    settings = Settings(kafka_bootstrap_servers=servers)
    broker = build_broker(settings.kafka_brokers, graceful_timeout=1.0)
    assert ["a:1", "b:2"] == settings.kafka_brokers == client_options(settings)["bootstrap_servers"]
    assert ["a:1", "b:2"] == broker.specification.url


def test_producers_lose_and_repeat_nothing() -> None:
    """A producer waits for all copies and is idempotent."""
    options = producer_options(Settings())
    assert (options["acks"], options["enable_idempotence"]) == ("all", True)


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_faststream_and_aiokafka_agree_on_sasl(protocol: Any, mechanism: Any) -> None:
    """The consumer that FastStream makes logs in exactly as our own clients do."""
    settings = Settings(kafka_security_protocol=protocol, kafka_sasl_mechanism=mechanism, **SASL)
    ours = client_options(settings)
    theirs = parse_security(broker_security(settings))
    compared = ("security_protocol", "sasl_mechanism", "sasl_plain_username", "sasl_plain_password")
    assert {name: ours[name] for name in compared} == {name: theirs[name] for name in compared}
    assert ("ssl_context" in ours) == (theirs["ssl_context"] is not None)


def test_faststream_and_aiokafka_agree_on_tls() -> None:
    """TLS without SASL checks the server's name and certificate in both."""
    settings = Settings(kafka_security_protocol="SSL")
    ours = client_options(settings)
    theirs = parse_security(broker_security(settings))
    assert (ours["security_protocol"], theirs["security_protocol"]) == ("SSL", "SSL")
    assert ours["ssl_context"].check_hostname


def test_a_broken_certificate_is_an_operators_error(tmp_path: Path) -> None:
    """A file that is no certificate is one clear line, no traceback."""
    path = tmp_path / "broken.pem"
    path.write_text("no certificate")
    with pytest.raises(OperatorError, match="INVENTORY_KAFKA_SSL_ files cannot be used"):
        client_options(Settings(kafka_security_protocol="SSL", kafka_ssl_cafile=path))
