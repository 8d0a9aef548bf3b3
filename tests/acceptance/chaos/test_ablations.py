"""Without one safeguard the checker goes red, for the reason the scenario provokes; `make chaos` runs them all."""

import asyncio
from pathlib import Path

import pytest

from dev.chaos.ablation_scenarios import SCENARIOS, Scenario, is_found, run_scenario
from dev.chaos.cluster import Servers
from dev.chaos.run import Options

QUICK = ("inbox_off", "no_outbox", "no_locks", "stock_parser")


@pytest.mark.parametrize(
    "scenario", [scenario for scenario in SCENARIOS if scenario.ablation in QUICK], ids=lambda s: s.ablation
)
def test_the_checker_finds_out(servers: Servers, directory: Path, scenario: Scenario) -> None:
    """A checker that cannot fail proves nothing."""
    result = asyncio.run(
        run_scenario(servers, scenario, scenario.ablation, Options(1, 0.0, 0.0, directory), lambda _: None)
    )
    assert is_found(scenario, result), result.line()
