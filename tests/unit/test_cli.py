"""The command line reads well, starts at once, and says in one line what an operator can mend."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from inventory import cli
from inventory.errors import OperatorError
from schemas.outgoing import DEAD_LETTER_REASONS

HEAVY = ("aiokafka", "faststream", "pydantic", "sqlalchemy", "asyncpg", "rich", "opentelemetry", "prometheus_client")


def _inventory(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, without the INVENTORY_ variables of whoever runs the tests."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INVENTORY_")}
    return subprocess.run(
        [sys.executable, "-m", "inventory", *arguments],
        env={**clean, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _leaves_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> int:
    def app() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_help_imports_nothing_heavy() -> None:
    """Help comes at once, because what commands need is imported when they run."""
    code = f"import sys, inventory.cli; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"


def test_help_lists_every_command_with_a_sentence() -> None:
    """Each command says what it does where help lists it, whole in a terminal of 80 columns."""
    root = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined] # a group, typed as a command
    groups = {(): root} | {(name,): group.commands for name, group in root.items() if hasattr(group, "commands")}
    for path, commands in groups.items():
        listed = _inventory(*path, "--help", COLUMNS="80").stdout.split("Commands:\n")[1].splitlines()
        sentences = dict(line.split(maxsplit=1) for line in listed if line.strip())
        assert sentences.keys() == commands.keys()
        assert [text for text in sentences.values() if not text.endswith(".") or text.endswith("...")] == []


def test_no_command_is_wrong_use() -> None:
    """The command alone shows its help and leaves with 2."""
    result = _inventory()
    assert (result.returncode, "Commands:" in result.stdout + result.stderr) == (2, True)


def test_wrong_settings_are_lines_without_a_traceback() -> None:
    """Every problem is one line on standard error, and nothing is on standard output."""
    result = _inventory("settings", INVENTORY_HTTP_PROT="80", INVENTORY_LOG_LEVEL="loud")
    assert (result.returncode, result.stdout) == (2, "")
    assert [line.split(" ")[1] for line in result.stderr.splitlines()] == [
        "INVENTORY_HTTP_PROT",
        "INVENTORY_LOG_LEVEL:",
    ]


def test_settings_are_printed_masked_with_their_source() -> None:
    """An operator sees what is in force, where it came from, and no password."""
    result = _inventory("settings", "--json", INVENTORY_DATABASE_URL="postgresql://u:tiger@h/d")
    rows = {row["variable"]: row for row in json.loads(result.stdout)}
    assert (rows["INVENTORY_DATABASE_URL"]["value"], rows["INVENTORY_DATABASE_URL"]["source"]) == (
        "postgresql://u:***@h/d",
        "environment",
    )
    assert (rows["INVENTORY_HTTP_PORT"]["value"], rows["INVENTORY_HTTP_PORT"]["source"]) == ("8080", "default")
    assert "tiger" not in _inventory("settings", INVENTORY_DATABASE_URL="postgresql://u:tiger@h/d").stdout


def test_an_unreachable_kafka_is_one_line() -> None:
    """The address and what to check, code 2, no traceback."""
    result = _inventory("topics", "create", INVENTORY_KAFKA_BOOTSTRAP_SERVERS="localhost:1")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith("inventory: Kafka at localhost:1 cannot be used: no broker answers; check")


def test_an_unreachable_postgresql_is_one_line() -> None:
    """The address without its password and what to check, code 2, no traceback."""
    result = _inventory("dlq", "list", INVENTORY_DATABASE_URL="postgresql://u:tiger@localhost:1/d")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith("inventory: PostgreSQL at postgresql://u:***@localhost:1/d cannot be used:")


def test_contracts_are_exported_into_a_directory(tmp_path: Path) -> None:
    """Every written file is named on standard output."""
    result = _inventory("contracts", "export", str(tmp_path / "contracts"))
    written = sorted(str(path) for path in (tmp_path / "contracts").rglob("*.json"))
    assert sorted(result.stdout.splitlines()) == written
    assert len(written) > 10


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file in the way is named."""
    (tmp_path / "file").write_text("")
    result = _inventory("contracts", "export", str(tmp_path / "file" / "below"))
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "cannot be written" in result.stderr


@pytest.mark.parametrize("value", ["yesterday", "-1h"])
def test_a_wrong_since_is_wrong_use(value: str) -> None:
    """The option's message shows both forms it takes."""
    result = _inventory("dlq", "list", "--since", value)
    assert (result.returncode, "like 2h" in " ".join(result.stderr.split())) == (2, True)


def test_a_reason_that_does_not_exist_is_refused() -> None:
    """A typing error in a dead letter's reason does not read as an empty list; the real ones are named."""
    result = _inventory("dlq", "list", "--reason", "schema_invald")
    assert 2 == result.returncode
    assert "--reason" in result.stderr
    assert all(reason in " ".join(result.stderr.split()) for reason in DEAD_LETTER_REASONS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dlq", "show", "x%"), "is not the id of a dead letter"),
        (("dlq", "show", " "), "is not the id of a dead letter"),
        (("dlq", "list", "--topic", "order.craeted"), "is none of"),
        (("outbox", "retry", "x"), "an id is a UUID"),
        (("outbox", "discard", "--all", "--reason", " "), "say why"),
        (("outbox", "discard", "--all", "--reason", "\udcff"), "is not valid UTF-8"),
        (("stream", "skip", "order.craeted", "0", "1"), "is none of"),
        (("stock", "adjust", "x" * 257, "--add", "1", "--reason", "r"), "characters, at most"),
    ],
)
def test_wrong_arguments_are_refused_before_connecting(arguments: tuple[str, ...], words: str) -> None:
    """Whoever mistypes an id while the database is away reads of the id."""
    away = "postgresql://nobody@127.0.0.1:1/nowhere"
    result = _inventory(*arguments, INVENTORY_DATABASE_URL=away, INVENTORY_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert (2, True) == (result.returncode, words in " ".join(result.stderr.replace("│", " ").split())), result.stderr


def test_an_operators_error_is_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The error's own words are printed, line by line."""
    assert _leaves_with(monkeypatch, OperatorError("one\ntwo")) == 2
    assert capsys.readouterr().err == "inventory: one\ninventory: two\n"


def test_a_bug_is_code_70(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Anything unexpected keeps its traceback, so that it can be reported."""
    assert _leaves_with(monkeypatch, RuntimeError("unexpected")) == 70
    assert "Traceback" in capsys.readouterr().err
