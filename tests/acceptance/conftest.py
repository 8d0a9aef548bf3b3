"""Fixtures of the acceptance tests: a deployment on real servers, and figures for the report."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from dev.servers.kafka import Broker
from tests.acceptance.deployment import Deployment

_FIGURE = "measured"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures of the tests that passed."""
    for report in terminalreporter.getreports("passed"):
        for name, figure in report.user_properties:
            if name == _FIGURE:
                terminalreporter.write_line(f"measured: {figure}")


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Add a figure to the report."""
    return partial(record_property, _FIGURE)


@pytest.fixture
def deployment(real_kafka: Broker, database_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """A migrated database and all topics on real Kafka, for this test alone."""
    opened = Deployment(real_kafka.bootstrap_servers, database_url, tmp_path)
    try:
        opened.create_topics()
        yield opened
    finally:
        opened.close()
