"""Fixtures of the acceptance tests: a deployment on real servers, and figures for the report."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev.servers.kafka import Broker
from tests.acceptance.deployment import Deployment

_figures = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures at the end, also if every test passed."""
    for figure in config.stash.get(_figures, []):
        terminalreporter.write_line(f"measured: {figure}")


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Add a figure to the report."""
    return request.config.stash.setdefault(_figures, []).append


@pytest.fixture
def deployment(real_kafka: Broker, database_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """A migrated database and all topics on real Kafka, for this test alone."""
    opened = Deployment(real_kafka.bootstrap_servers, database_url, tmp_path)
    try:
        opened.create_topics()
        yield opened
    finally:
        opened.close()
