# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory outbox`: outgoing events that Kafka will never accept, and what becomes of them."""

from typing import TYPE_CHECKING, Annotated

import typer

from inventory.commands.arguments import AsJson, checked_operator, checked_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from inventory.settings import Settings
    from storage.outbox_queries import UnpublishableEvent

app = typer.Typer(no_args_is_help=True)

MAX_LIMIT = 10_000
MAX_CHOSEN = 10_000
COLUMNS = ("id", "created_at", "topic", "key", "type", "size_bytes", "publish_error")

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of events (see `inventory outbox list`).")]
All = Annotated[bool, typer.Option("--all", help="All unpublishable events, 10,000 at most.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


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

    from inventory.console import print_json, print_line, print_table
    from inventory.database import query
    from inventory.settings import load_settings
    from storage import outbox_queries

    events = asyncio.run(query(load_settings(), lambda opened: outbox_queries.unpublishable(opened, limit)))
    if as_json:
        print_json([event._asdict() for event in events])
    elif not events:
        print_line("no unpublishable events")
    else:
        print_table(COLUMNS, [[getattr(event, name) for name in COLUMNS] for event in events])


@app.command()
def retry(ids: Ids = None, *, everything: All = False, yes: Yes = False, as_json: AsJson = False) -> None:
    """Send unpublishable events again.

    Fix the cause first: raise the topic's max.message.bytes, for example. They are published behind later events of
    their keys. Exit code 1 if an id is not among the unpublishable events.
    """
    import asyncio

    from inventory.database import query
    from inventory.settings import load_settings
    from storage import outbox_queries

    settings = load_settings()
    chosen = _chosen(settings, ids, everything=everything)
    _confirm("Send again", chosen, yes=yes)
    count = 0
    if chosen:
        count = asyncio.run(query(settings, lambda opened: outbox_queries.retry(opened, [one.id for one in chosen])))
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
    """Discard unpublishable events for good.

    Consumers never see them. Exit code 1 if an id is not among the unpublishable events.
    """
    import asyncio
    from datetime import UTC, datetime

    from inventory.database import query
    from inventory.settings import load_settings
    from storage import outbox_queries

    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    note = f"discarded by {checked_operator(operator)}: {checked_text(reason.strip())}"
    settings = load_settings()
    chosen = _chosen(settings, ids, everything=everything)
    _confirm("Discard", chosen, yes=yes)
    count = 0
    if chosen:
        chosen_ids, now = [one.id for one in chosen], datetime.now(UTC)
        count = asyncio.run(query(settings, lambda opened: outbox_queries.discard(opened, chosen_ids, now, note)))
    _report("discarded", count, ids, as_json=as_json)


def _chosen(settings: "Settings", ids: list[str] | None, *, everything: bool) -> "Sequence[UnpublishableEvent]":
    """Return those unpublishable events that the command is about."""
    import asyncio

    from inventory.database import query
    from storage import outbox_queries

    wanted = _ids(ids, everything=everything)
    return asyncio.run(query(settings, lambda opened: outbox_queries.unpublishable(opened, MAX_CHOSEN, wanted)))


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
