"""Migrations after the first keep the rules of decision 13: they wait briefly for locks and block no writer."""

import re
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from storage import migrate

MIGRATIONS = Path(migrate.__file__).parent / "migrations"
# The first one runs on an empty database, where nothing can be blocked.
LATER = [path for path in sorted((MIGRATIONS / "versions").glob("[0-9]*.py")) if not path.name.startswith("0001_")]


def problems(source: str) -> list[str]:
    """Return the rules that a migration breaks, as far as its text shows."""
    made = set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", source))
    found = []
    if "SET LOCAL lock_timeout" not in source:
        found.append("waits for locks without a lock_timeout")
    for concurrently, table in re.findall(
        r"CREATE (?:UNIQUE )?INDEX\s+(CONCURRENTLY)?.*?\sON\s+(\w+)", source, re.DOTALL
    ):
        if not concurrently and table not in made:
            found.append(f"indexes {table} without CONCURRENTLY")
    for table, rest in re.findall(r"ALTER TABLE (\w+)\s+ADD CONSTRAINT ([^\"']*)", source):
        if table not in made and not re.search(r"NOT VALID|USING INDEX", rest):
            found.append(f"adds a constraint to {table} without NOT VALID")
    if re.search(r"op\.(?!execute\b|get_context\b)\w+\(", source):
        found.append("uses an operation whose SQL and locks do not show; write the SQL")
    return found


def test_no_migration_blocks_a_writer() -> None:
    """Each migration after the first keeps the rules."""
    found = {path.name: problems(path.read_text(encoding="utf-8")) for path in LATER}
    assert {name: broken for name, broken in found.items() if broken} == {}


WAIT = "op.execute(\"SET LOCAL lock_timeout = '3s'\")\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (WAIT + 'op.execute("ALTER TABLE orders ADD COLUMN note text")', []),
        ('op.execute("ALTER TABLE orders ADD COLUMN note text")', ["waits for locks without a lock_timeout"]),
        (WAIT + 'op.execute("CREATE INDEX ix ON orders (cart_id)")', ["indexes orders without CONCURRENTLY"]),
        (WAIT + 'op.execute("CREATE UNIQUE INDEX ix\\n ON orders (cart_id)")', ["indexes orders without CONCURRENTLY"]),
        (WAIT + 'op.execute("CREATE INDEX CONCURRENTLY ix ON orders (cart_id)")', []),
        (WAIT + 'op.execute("CREATE TABLE places (id text)")\nop.execute("CREATE INDEX ix ON places (id)")', []),
        (
            WAIT + 'op.execute("ALTER TABLE orders ADD CONSTRAINT ck CHECK (version > 0)")',
            ["adds a constraint to orders without NOT VALID"],
        ),
        (WAIT + 'op.execute("ALTER TABLE orders ADD CONSTRAINT ck CHECK (version > 0) NOT VALID")', []),
        (
            WAIT + 'op.create_index("ix", "orders", ["cart_id"])',
            ["uses an operation whose SQL and locks do not show; write the SQL"],
        ),
    ],
)
def test_the_rules_are_seen_to_be_broken(source: str, expected: list[str]) -> None:
    """Each rule is reported where it is broken, and only there."""
    assert expected == problems(source)


def test_a_drafted_migration_keeps_the_rules(tmp_path: Path) -> None:
    """The template from which alembic drafts the next migration already waits briefly."""
    (tmp_path / "versions").mkdir()
    (tmp_path / "script.py.mako").write_text((MIGRATIONS / "script.py.mako").read_text(encoding="utf-8"))
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    script = ScriptDirectory.from_config(config).generate_revision("0002", "Add a note to orders.")
    assert script is not None
    draft = Path(script.path).read_text(encoding="utf-8")
    assert "lock_timeout" in draft
    assert problems(draft) == []
