# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory contracts`: the event contracts as files for other languages."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def contracts() -> None:
    """Write the event contracts for other programs."""


@app.command()
def export(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Directory to write to; created if it does not exist.", file_okay=False),
    ],
) -> None:
    """Write JSON Schemas, an AsyncAPI and an OpenAPI document."""
    from api.app import openapi_document
    from inventory.console import print_line
    from inventory.errors import OperatorError
    from schemas.export import export as export_contracts
    from schemas.export import render

    try:
        paths = export_contracts(directory)
        openapi = directory / "openapi.json"
        openapi.write_text(render(openapi_document()), encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"{error.filename or directory} cannot be written: {error.strerror or error}") from error
    for path in (*paths, openapi):
        print_line(str(path))
