"""What exists is documented, and what is documented exists: settings, topics, commands, metrics."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from engine import metrics
from inventory.cli import app
from inventory.settings import Settings, printable, variable
from schemas.topics import TOPICS_IN, TOPICS_OUT, dlq_topic

DOCS = Path(__file__).parents[2] / "docs"


def _rows(text: str) -> list[tuple[str, ...]]:
    """Every table row of a page that begins with something in backticks, as its cells."""
    return [
        tuple(cell.strip() for cell in line.strip("| ").split(" | "))
        for line in re.sub(r"\| +\|", "|  - |", text).splitlines()
        if line.startswith("| `")
    ]


def _page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def _commands(command: Any, path: str) -> Iterator[str]:
    """Every command that can be run, with the groups it is in."""
    children = getattr(command, "commands", None)
    if not children:
        yield path
        return
    for name, child in children.items():
        yield from _commands(child, f"{path} {name}")


def test_every_setting_has_its_row() -> None:
    """Name, default and description in the page are those of the program, in its order."""
    defaults = printable(Settings.model_construct())
    expected = [
        (f"`{variable(field)}`", f"`{defaults[field]}`" if defaults[field] else "-", str(information.description))
        for field, information in Settings.model_fields.items()
    ]
    assert [row for row in _rows(_page("settings.md")) if row[0].startswith("`INVENTORY_")] == expected


def test_every_topic_has_its_row() -> None:
    """Direction, key and description in the page are those of the contracts."""
    expected = [(f"`{name}`", "in", topic.key_field, topic.description) for name, topic in TOPICS_IN.items()]
    expected += [
        (f"`{name}`", "out", " or ".join(topic.key_fields), topic.description) for name, topic in TOPICS_OUT.items()
    ]
    dead_letters = [f"`{dlq_topic(name)}`" for name in TOPICS_IN]
    rows = [row for row in _rows(_page("topics.md")) if len(row) == 4]
    assert [row for row in rows if row[1] != "dead letters"] == expected
    assert [row[0] for row in rows if row[1] == "dead letters"] == dead_letters


def test_every_command_has_its_row() -> None:
    """Each command that can be run is in the page, and the page names no other."""
    commands = sorted(f"`{command}`" for command in _commands(typer.main.get_command(app), "inventory"))
    assert sorted(row[0] for row in _rows(_page("commands.md")) if row[0].startswith("`inventory ")) == commands


def test_every_metric_has_its_row() -> None:
    """The page's table is the one that stands beside the metrics in the code."""
    in_code = [row for row in _rows(metrics.__doc__ or "") if row[0].startswith("`inventory_")]
    assert len(in_code) == 16
    assert [row for row in _rows(_page("metrics.md")) if row[0].startswith("`inventory_") and len(row) == 4] == in_code


def test_the_assumptions_about_a_history_are_those_of_the_code() -> None:
    """What `inventory publish` makes of a row is said alike in the page and beside the code."""
    from inventory import history  # noqa: PLC0415 - only its docstring is of interest

    in_code = [line for line in (history.__doc__ or "").splitlines() if line.startswith("| ") and "becomes" not in line]
    page = _page("commands.md").replace("`", "")
    assert [line for line in in_code if line.replace("`", "") not in page] == []
