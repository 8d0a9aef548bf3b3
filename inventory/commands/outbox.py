# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory outbox`: outgoing events that Kafka will never accept, and what becomes of them."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from storage.outbox_queries import UnpublishableEvent

app = typer.Typer(no_args_is_help=True)

MAX_LIMIT = 10_000
COLUMNS = ("id", "created_at", "topic", "key", "type", "size_bytes", "publish_error")

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of events (see `inventory outbox list`).")]
All = Annotated[bool, typer.Option("--all", help="All unpublishable events, 10,000 at most.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def outbox() -> None:
    """List, retry or discard events that Kafka will never accept."""


@app.command("list")
def list_(
    *,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="Most events to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List unpublishable events, the oldest first, each with the error."""
    import asyncio

    from inventory import outgoing
    from inventory.console import print_json, print_line, print_table
    from inventory.settings import load_settings

    events = asyncio.run(outgoing.unpublishable(load_settings(), limit))
    if as_json:
        print_json([event._asdict() for event in events])
    elif not events:
        print_line("no unpublishable events")
    else:
        print_table(COLUMNS, [[getattr(event, name) for name in COLUMNS] for event in events])


@app.command()
def retry(ids: Ids = None, *, everything: All = False, yes: Yes = False, as_json: AsJson = False) -> None:
    """Send unpublishable events again.

    Mend the cause first: raise the topic's max.message.bytes, for example. They are published behind later events of
    their keys. Exit code 1 if an id is not among the unpublishable events.
    """
    import asyncio

    from inventory import outgoing
    from inventory.settings import load_settings

    settings = load_settings()
    events = asyncio.run(outgoing.chosen(settings, _ids(ids, everything=everything)))
    _confirm("Send again", events, yes=yes)
    count = asyncio.run(outgoing.retry(settings, [event.id for event in events])) if events else 0
    _report("retried", count, ids, as_json=as_json)


@app.command()
def discard(
    ids: Ids = None,
    *,
    reason: Annotated[str, typer.Option(help="Why they are not needed; kept with the row.")],
    operator: Annotated[str | None, typer.Option(help="Who decides; your login name if not given.")] = None,
    everything: All = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give up unpublishable events for good.

    Consumers never see them. Exit code 1 if an id is not among the unpublishable events.
    """
    import asyncio
    import getpass

    from inventory import outgoing
    from inventory.settings import load_settings

    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    settings = load_settings()
    events = asyncio.run(outgoing.chosen(settings, _ids(ids, everything=everything)))
    _confirm("Discard", events, yes=yes)
    note = f"discarded by {operator or getpass.getuser()}: {reason.strip()}"
    count = asyncio.run(outgoing.discard(settings, [event.id for event in events], note)) if events else 0
    _report("discarded", count, ids, as_json=as_json)


def _ids(texts: list[str] | None, *, everything: bool) -> "list[UUID] | None":
    """Return the ids given; None stands for all."""
    from uuid import UUID

    if everything == bool(texts):
        raise typer.BadParameter("give either ids or --all", param_hint="ID")
    try:
        return None if everything else [UUID(text) for text in texts or ()]
    except ValueError as error:
        raise typer.BadParameter(f"an id is a UUID: {error}", param_hint="ID") from error


def _confirm(what: str, events: "Sequence[UnpublishableEvent]", *, yes: bool) -> None:
    if events and not yes:
        names = ", ".join(sorted({event.type for event in events}))
        typer.confirm(f"{what} {len(events):,} events ({names})?", abort=True, err=True)


def _report(done: str, count: int, ids: list[str] | None, *, as_json: bool) -> None:
    from inventory.console import print_json, print_line

    if as_json:
        print_json({done: count})
    else:
        print_line(f"{done} {count:,} events")
    if ids and count < len(set(ids)):
        raise typer.Exit(1)
