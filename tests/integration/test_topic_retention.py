"""A worker says at its start which topics outlive what the inbox remembers."""

import logging
from collections.abc import Iterator

import pytest

from dev.servers.kafka import Broker
from inventory.preflight import check_topics
from inventory.settings import Settings


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log from warnings on."""
    with caplog.at_level(logging.WARNING):
        yield caplog


async def test_topics_that_outlive_the_inbox_are_named(
    real_kafka: Broker, topics: str, log: pytest.LogCaptureFixture
) -> None:
    """The topics are created for an inbox of 7 days; one of 2 days forgets what Kafka still has."""
    for retention, warnings in (("7d", 0), ("2d", 1)):
        log.clear()
        await check_topics(
            Settings(
                kafka_bootstrap_servers=real_kafka.bootstrap_servers,
                kafka_topic_prefix=topics,
                inbox_retention=retention,
            )
        )
        assert warnings == len(log.records)
    message = log.records[0].getMessage()
    assert f"{topics}order.created (7d)" in message
    assert "INVENTORY_INBOX_RETENTION=2d" in message
