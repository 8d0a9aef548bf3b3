"""What exists is documented, and what is documented exists: settings, topics, commands, metrics, folders, decisions."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from api import metrics as api_metrics
from engine import metrics
from inventory.cli import app
from inventory.settings import Settings, printable
from inventory.variables import variable
from schemas.outgoing import DEAD_LETTER_REASONS, REFUSAL_REASONS
from schemas.topics import TOPICS_IN, TOPICS_OUT, TOPICS_STATE, dlq_topic

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
# Lines of a decision record that fit on one screen.
SCREEN = 40


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
    expected += [(f"`{name}`", "state", topic.key_field, topic.description) for name, topic in TOPICS_STATE.items()]
    dead_letters = [f"`{dlq_topic(name)}`" for name in TOPICS_IN]
    rows = [row for row in _rows(_page("topics.md")) if len(row) == 4]
    assert [row for row in rows if row[1] != "dead letters"] == expected
    assert [row[0] for row in rows if row[1] == "dead letters"] == dead_letters


def test_every_command_has_its_row() -> None:
    """Each command that can be run is in the page, and the page names no other."""
    commands = sorted(f"`{command}`" for command in _commands(typer.main.get_command(app), "inventory"))
    assert sorted(row[0] for row in _rows(_page("commands.md")) if row[0].startswith("`inventory ")) == commands


def test_every_metric_has_its_row() -> None:
    """The page's tables are those that stand beside the metrics in the code."""
    modules = (metrics, api_metrics)
    in_code = [row for module in modules for row in _rows(module.__doc__ or "") if row[0].startswith("`inventory_")]
    assert len(in_code) == 21 + 7
    assert [row for row in _rows(_page("metrics.md")) if row[0].startswith("`inventory_") and len(row) == 4] == in_code


@pytest.mark.parametrize(
    ("page", "heading", "reasons"),
    [("events.md", "Refusals", REFUSAL_REASONS), ("operations.md", "Dead letters", DEAD_LETTER_REASONS)],
)
def test_every_reason_has_its_row(page: str, heading: str, reasons: tuple[str, ...]) -> None:
    """Each reason of the closed list is in the page, in order of precedence, and the page names no other."""
    section = _page(page).split(f"\n## {heading}\n")[1].split("\n## ")[0]
    assert [row[0].strip("`") for row in _rows(section) if re.fullmatch(r"`[a-z_]+`", row[0])] == list(reasons)


def test_the_assumptions_about_a_history_are_those_of_the_code() -> None:
    """What `inventory publish` makes of a row is said alike in the page and beside the code."""
    from inventory import history  # noqa: PLC0415 - only its docstring is of interest

    in_code = [line for line in (history.__doc__ or "").splitlines() if line.startswith("| ") and "becomes" not in line]
    page = _page("commands.md").replace("`", "")
    assert [line for line in in_code if line.replace("`", "") not in page] == []


# --- pages, folders and decisions -------------------------------------------------------------------


def _prose(page: Path) -> str:
    """Return a page's text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """Return the anchors that a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _paths(text: str) -> list[str]:
    """Return what stands in backticks and reads as a path of this repository, not as a media type, topic or URL."""
    files = r"[\w./-]*\.(?:py|md|toml|yaml|json|mako)|Dockerfile|Makefile|LICENSE"
    top = "|".join(re.escape(path.name) for path in ROOT.iterdir())
    return re.findall(rf"`((?:{top})/[\w./-]*|[\w./-]+/|{files})`", text)


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link is a file or folder of this repository, and its anchor a heading of it."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(ROOT) or not target.exists() or (anchor and anchor not in _anchors(target)):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_the_text_exist(page: Path) -> None:
    """A path in backticks, such as `domain/decide.py`, is a file or folder of this repository."""
    assert _missing(_paths(_prose(page))) == []


def test_a_path_that_is_gone_is_found() -> None:
    """The check can fail: it tells paths from media types and topics, and names the one that does not exist."""
    there = "`domain/decide.py`, `dev/`, `Makefile`"
    no_paths = "`application/json`, `order.created`, `/livez`, `compose up`, `>=`"
    gone = "`domain/gone.py`, `gone.py`, `gone/`, `domain/gone`"
    assert ["domain/gone.py", "gone.py", "gone/", "domain/gone"] == _missing(_paths(f"{there} {no_paths} {gone}"))
    assert ["domain/decide.py", "dev/", "Makefile"] == _paths(there)


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_top_folder_has_its_row(page: str) -> None:
    """Each top folder that git tracks is in the page's table, and the table names no other."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    folders = {f"`{path.split('/')[0]}/`" for path in listed if "/" in path}
    assert folders == {row[0] for row in _rows((ROOT / page).read_text(encoding="utf-8")) if row[0].endswith("/`")}


def test_every_decision_is_in_the_index() -> None:
    """Number, title, status and date in the index are those of the records, in order and without holes."""
    expected = []
    for number, record in enumerate(DECISIONS, 1):
        heading, *_ = text = record.read_text(encoding="utf-8").splitlines()
        status = re.fullmatch(r"\*\*Status\.\*\* (Accepted|Superseded by \d+), (\d{4}-\d\d-\d\d)[.;].*", text[2])
        assert status, f"{record.name} does not begin with its status and date"
        assert record.name.startswith(f"{number:04}-")
        title = heading.removeprefix(f"# {number}. ")
        expected.append(f"| [{number}]({record.name}) | {title} | {status[1].lower()} | {status[2]} |")
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8").splitlines()
    assert expected == [line for line in index if line.startswith("| [")]


@pytest.mark.parametrize("record", DECISIONS, ids=lambda record: record.stem)
def test_a_decision_ends_with_what_enforces_it(record: Path) -> None:
    """One screen, whose last paragraph names the files that would fail if the decision were not followed."""
    text = record.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= SCREEN
    last = text.rstrip().split("\n\n")[-1]
    assert last.startswith("**Enforced by** ")
    assert _paths(last) != []
    assert _missing(_paths(last)) == []


def test_the_licence_named_is_the_licence_given() -> None:
    """The package's metadata and the file agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert "Apache License\n                           Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()


def test_the_commit_hook_checks_what_ci_checks() -> None:
    """Each pre-commit hook is local and calls a target of the Makefile, so that the two cannot drift apart."""
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in configuration["repos"]] == ["local"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    entries = [hook["entry"] for repository in configuration["repos"] for hook in repository["hooks"]]
    assert entries == ["make lint"]
    assert {entry.removeprefix("make ") for entry in entries} <= targets
