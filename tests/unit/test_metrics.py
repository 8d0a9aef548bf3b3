"""Metrics have the names of the contract, and no others."""

import re
from types import ModuleType

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from api import metrics as api_metrics
from engine import metrics


@pytest.mark.parametrize("module", [metrics, api_metrics])
def test_the_docstring_lists_exactly_the_metrics_there_are(module: ModuleType) -> None:
    """Each metric has its row with its type and labels."""
    listed = {
        (name, kind, tuple(label for label in labels.split(", ") if label))
        for name, kind, labels in re.findall(
            r"^\| `(\w+)` \| (\w+) \| ([\w, ]*?) ?\|", module.__doc__ or "", re.MULTILINE
        )
    }
    ours = [item for item in vars(module).values() if isinstance(item, MetricWrapperBase)]
    there = {
        (
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            tuple(metric._labelnames),  # noqa: SLF001 - the library has no public way to ask
        )
        for metric in ours
        for family in metric.describe()
    }
    assert listed == there


def test_counters_have_no_created_twin() -> None:
    """Only the names of the contract are exposed."""
    assert b"inventory_commit_lost_total" in generate_latest(REGISTRY)
    assert b"inventory_commit_lost_created" not in generate_latest(REGISTRY)
