"""The benchmarks run: a trial on real servers, whose figures mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev.benchmarks.report import Figure, Section, as_text, ratio
from dev.servers.kafka import EXTERNAL_VARIABLE, Broker

REPOSITORY = Path(__file__).parents[2]
# The machine's speed, not a promise.
TRIAL_SECONDS = 400


@pytest.mark.timeout(TRIAL_SECONDS + 20)
def test_a_trial_measures_everyone_and_says_so_as_one_object(real_kafka: Broker) -> None:
    """A trial succeeds, and its JSON has a positive figure for each contestant, the relay and the latencies."""
    finished = subprocess.run(
        [sys.executable, "-m", "dev.benchmarks", "life", "relay", "latency", "--trial", "--json"],
        cwd=REPOSITORY,
        env={**os.environ, EXTERNAL_VARIABLE: real_kafka.bootstrap_servers},
        capture_output=True,
        check=False,
        text=True,
        timeout=TRIAL_SECONDS,
    )
    assert 0 == finished.returncode, finished.stderr
    found = json.loads(finished.stdout)
    figures = {one["name"]: one["min"] for section in found["scenarios"].values() for one in section["figures"]}
    assert figures.keys() >= {"worker", "floor", "naive", "relay", "p50", "p99", "p99.9"}
    assert all(figures[name] > 0 for name in ("worker", "floor", "naive", "relay", "p50", "p99", "p99.9"))
    assert {"worker/naive", "worker/floor"} == found["ratios"].keys()


def test_ratios_come_first_and_are_taken_within_rounds() -> None:
    """A round that was slow for both contestants does not change the ratio."""
    worker, naive = Figure("worker", "events/s", (4000.0, 400.0)), Figure("naive", "events/s", (100.0, 10.0))
    section = Section("life", "orders", [worker, naive], {"worker/naive": ratio(worker, naive)})
    assert "worker/naive 40.00" == as_text([section], {"cores": 2}).splitlines()[0]
