# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory recover` and `inventory stream`: positions and gaps of the stream."""

from typing import TYPE_CHECKING, Annotated

import typer

from inventory.commands.arguments import AsJson, checked_operator, checked_topic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inventory.recovery import Group, StreamState
    from inventory.settings import Settings
    from storage.stream import Gap, Position, RecordedGap

app = typer.Typer(no_args_is_help=True)

Operator = Annotated[str | None, typer.Option(help="Who decides it; your login name if not given.")]

GAP_COLUMNS = ("topic", "partition", "from", "to", "cause", "noticed", "accepted", "by")


def recover(
    *,
    accept_gap: Annotated[
        bool, typer.Option("--accept-gap", help="Acknowledge the recorded gaps, so that workers are ready again.")
    ] = False,
    operator: Operator = None,
    as_json: AsJson = False,
) -> None:
    """Show where workers would start to read, and what is lost.

    For each partition that has unread records, will be read again or lost records: what Kafka has, the group's offset,
    the database's position, where a worker starts, how many records it reads again and how many Kafka deleted unread.
    After them, the gaps. Exit code 1 while records are lost that nobody has acknowledged.
    """
    import asyncio

    from inventory.console import print_line
    from inventory.settings import load_settings

    settings = load_settings()
    if accept_gap:
        accepted = asyncio.run(_accept_gaps(settings, checked_operator(operator)))
        if as_json:
            _print_gaps_as_json(accepted)
        else:
            print_line(f"{len(accepted):,} gaps acknowledged")
        return
    state = asyncio.run(_read_state(settings))
    _print_state(state, everything=False, as_json=as_json)
    if state.needs_attention:
        raise typer.Exit(1)


@app.callback()
def stream() -> None:
    """Show and move positions in the topics in."""


@app.command()
def show(*, as_json: AsJson = False) -> None:
    """Show the positions of every partition, and the gaps."""
    import asyncio

    from inventory.settings import load_settings

    _print_state(asyncio.run(_read_state(load_settings())), everything=True, as_json=as_json)


@app.command()
def skip(
    topic: Annotated[str, typer.Argument(help="The topic, without the deployment's prefix.")],
    partition: Annotated[int, typer.Argument(min=0, help="The partition's number.")],
    offset: Annotated[int, typer.Argument(min=0, help="The next offset to read.")],
    *,
    operator: Operator = None,
) -> None:
    """Go on behind records without reading them.

    Stop all workers first. What is skipped is recorded with who decided it. To read records again, lower the group's
    offset with Kafka's own tools.
    """
    import asyncio

    from inventory.console import print_line
    from inventory.settings import load_settings
    from storage.stream import Position

    position = Position(checked_topic(topic, "TOPIC"), partition, offset)
    gap = asyncio.run(_skip(load_settings(), position, checked_operator(operator)))
    print_line(f"skipped offsets {gap.from_offset} to {gap.to_offset - 1} of {topic}, partition {partition}")


async def _read_state(settings: "Settings") -> "StreamState":
    from inventory.database import connection
    from inventory.recovery import read_state

    async with connection(settings) as opened:
        return await read_state(opened, _group(settings))


async def _accept_gaps(settings: "Settings", operator: str) -> "list[RecordedGap]":
    from inventory.database import connection
    from storage.stream import accept_gaps

    async with connection(settings) as opened:
        return await accept_gaps(opened, operator)


async def _skip(settings: "Settings", position: "Position", operator: str) -> "Gap":
    from inventory import recovery
    from inventory.database import connection

    async with connection(settings) as opened:
        return await recovery.skip(opened, _group(settings), position, operator)


def _group(settings: "Settings") -> "Group":
    from functools import partial

    from inventory import kafka
    from inventory.recovery import Group

    return Group(
        partial(kafka.admin_client, settings), partial(kafka.group_consumer, settings), settings.kafka_topic_prefix
    )


def _print_state(state: "StreamState", *, everything: bool, as_json: bool) -> None:
    from inventory.console import print_json, print_line, print_table

    if as_json:
        print_json(
            {
                "partitions": [partition._asdict() for partition in state.partitions],
                "gaps": [gap._asdict() for gap in state.gaps],
            }
        )
        return
    shown = [
        partition
        for partition in state.partitions
        if everything or partition.starts_at < partition.end or partition.reads_again or partition.loses
    ]
    if shown:
        columns = ("topic", "partition", "first", "end", "group", "database", "starts at", "reads again", "loses")
        print_table(columns, shown)
    else:
        print_line("every partition is read to its end")
    if state.gaps:
        print_line()
        _print_gaps(state.gaps)


def _print_gaps(gaps: "Sequence[RecordedGap]") -> None:
    from inventory.console import print_table

    print_table(GAP_COLUMNS, [(*gap[:3], gap.to_offset - 1, *gap[4:]) for gap in gaps])


def _print_gaps_as_json(gaps: "Sequence[RecordedGap]") -> None:
    from inventory.console import print_json

    print_json([gap._asdict() for gap in gaps])
