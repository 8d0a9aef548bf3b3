"""`inventory stock` run on a small shop, for the tests of its commands."""

import asyncio
import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from domain.commands import CreateProduct
from inventory.cli import app
from storage.audit import audit
from storage.database import connect, open_pool
from tests.integration import sample


async def fill(url: str) -> None:
    """Make three products: plenty of apples, of which 4 are held, little bread, no cheese."""
    pool = await open_pool(url, 1)
    await sample.apply(
        pool,
        CreateProduct(sample.cause("a"), "apple", 50, 10),
        CreateProduct(sample.cause("b"), "bread", 5, 5),
        CreateProduct(sample.cause("c"), "cheese", 0, 5),
        sample.created("o1", {"apple": 4}),
    )
    await pool.close()


def inventory(*arguments: str) -> Result:
    """Run `inventory stock` with these arguments."""
    return CliRunner().invoke(app, ["stock", *arguments])


def shown(*arguments: str) -> list[dict[str, Any]]:
    """Return what the command shows as JSON."""
    answer: list[dict[str, Any]] = json.loads(inventory(*arguments, "--json").stdout)
    return answer


def imported(file: Path, *options: str) -> tuple[int, ...]:
    """Import a file and return the summary: rows, created, changed, unchanged, refused."""
    result = inventory("import", str(file), *options, "--json")
    assert 0 == result.exit_code
    summary = json.loads(result.stdout)
    return tuple(summary[name] for name in ("rows", "created", "changed", "unchanged", "refused"))


def written(directory: Path, text: str) -> Path:
    """Write a file to import."""
    file = directory / "stock.csv"
    file.write_text(text)
    return file


def run_sql(url: str, statement: str) -> None:
    """Run a statement behind the program's back."""

    async def run() -> None:
        connection = await connect(url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


def violations(url: str) -> int:
    """Count the disagreements in the sample."""

    async def count() -> int:
        connection = await connect(url)
        result = await audit(connection, sample.OPENING)
        await connection.close()
        return result.violations

    return asyncio.run(count())
