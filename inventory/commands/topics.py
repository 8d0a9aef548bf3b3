# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory topics`: creates the topics of the contracts in Kafka."""

import typer

from inventory.commands.arguments import AsJson

app = typer.Typer(no_args_is_help=True)


@app.callback()
def topics() -> None:
    """Create the topics that the worker reads and writes."""


@app.command()
def create(
    *,
    as_json: AsJson = False,
) -> None:
    """Create the topics that are missing.

    The topics that the worker reads and writes, and a dead letter topic for each that it reads. Existing topics are not
    changed. Partitions, replicas and the retention of dead letters are settings.
    """
    import asyncio
    from dataclasses import asdict
    from functools import partial

    from inventory.console import print_json, print_table, print_warning
    from inventory.kafka import admin_client, topic_layout
    from inventory.settings import load_settings
    from inventory.topics import create_topics, partition_warning

    settings = load_settings()
    layout = topic_layout(settings)
    reports = asyncio.run(create_topics(partial(admin_client, settings), layout))
    if warning := partition_warning(layout, reports):
        print_warning(warning)
    if as_json:
        print_json([asdict(report) for report in reports])
        return
    print_table(
        ("topic", "outcome", "partitions"), [(report.topic, report.outcome, report.partitions) for report in reports]
    )
