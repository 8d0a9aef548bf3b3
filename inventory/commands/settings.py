# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory settings`: prints every setting, its value and its source."""

from typing import Annotated

import typer


def show(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, including descriptions.")] = False,
) -> None:
    """Check the settings and print them; passwords are masked.

    All settings are environment variables. If any is wrong, prints a line per problem and exits with code 2.
    """
    import os

    from inventory.console import print_json, print_table
    from inventory.settings import Settings, load_settings, printable
    from inventory.variables import variable

    values = printable(load_settings())
    # Empty means not set, as in `docker compose` files with ${VARIABLE:-}.
    given = {name.upper() for name, value in os.environ.items() if value}
    rows = [
        (variable(field), value, "environment" if variable(field) in given else "default")
        for field, value in values.items()
    ]
    if as_json:
        descriptions = [field.description for field in Settings.model_fields.values()]
        print_json(
            [
                {"variable": name, "value": value or None, "source": source, "description": description}
                for (name, value, source), description in zip(rows, descriptions, strict=True)
            ]
        )
        return
    print_table(("variable", "value", "from"), rows)
