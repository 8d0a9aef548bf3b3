# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory dlq`: list and show dead letters with their original bytes."""

from typing import TYPE_CHECKING, Annotated

import typer

from inventory.commands.arguments import AsJson, checked_text, checked_topic

if TYPE_CHECKING:
    from datetime import datetime

app = typer.Typer(no_args_is_help=True)

MESSAGE_WIDTH = 80
MAX_LIMIT = 10_000

Topic = Annotated[str | None, typer.Option(help="Only from this topic, e.g. order.created.")]
Reason = Annotated[str | None, typer.Option(help="Only with this reason, e.g. schema_invalid.")]
Fingerprint = Annotated[str | None, typer.Option(help="Only with this fingerprint (see --group).")]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only from the last 2h, 7d ... or since 2026-01-31T08:00Z.")
]
Limit = Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="Most dead letters to list.")]


@app.callback()
def dlq() -> None:
    """List and show dead letters: records that could not be applied."""


@app.command("list")
def list_(  # noqa: PLR0913 - one parameter per option
    *,
    topic: Topic = None,
    reason: Reason = None,
    fingerprint: Fingerprint = None,
    since: Since = None,
    limit: Limit = 50,
    group: Annotated[
        bool, typer.Option("--group", help="One line per group of dead letters with the same cause, with its count.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first."""
    import asyncio

    from inventory import dead_letters
    from inventory.database import query
    from inventory.settings import load_settings
    from storage.dead_letter_queries import Filter

    settings = load_settings()
    topic = None if topic is None else checked_topic(topic, "--topic")
    matching = Filter(topic, _reason(reason), checked_text(fingerprint), _since(since))
    if group:
        found = asyncio.run(query(settings, lambda opened: dead_letters.groups(opened, matching, limit)))
        _print_groups(found, as_json=as_json)
    else:
        found, total = asyncio.run(query(settings, lambda opened: dead_letters.newest(opened, matching, limit)))
        _print_list(found, total, as_json=as_json)


@app.command()
def show(
    id_prefix: Annotated[str, typer.Argument(metavar="ID", help="The id, or a unique beginning of it.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter in full.

    The reason, and the record's original key, headers and value.
    """
    import asyncio

    from inventory import dead_letters
    from inventory.console import print_json, print_line
    from inventory.database import query
    from inventory.settings import load_settings

    beginning = _beginning(id_prefix)
    dead_letter = asyncio.run(query(load_settings(), lambda opened: dead_letters.one(opened, beginning)))
    if as_json:
        print_json(dead_letter)
        return
    for line in dead_letters.described(dead_letter):
        print_line(line)


def _reason(text: str | None) -> str | None:
    """Refuse an unknown reason: an empty list would look as if all were well."""
    from schemas.outgoing import DEAD_LETTER_REASONS

    if text is None or text in DEAD_LETTER_REASONS:
        return text
    raise typer.BadParameter(f"{text!r} is none of {', '.join(DEAD_LETTER_REASONS)}", param_hint="--reason")


def _beginning(text: str) -> str:
    """Refuse what no id begins with; ids are looked up in lower case."""
    from string import hexdigits

    beginning = text.strip().lower()
    if beginning and set(beginning) <= {*hexdigits, "-"}:
        return beginning
    raise typer.BadParameter(
        f"{text!r} is not the id of a dead letter: `inventory dlq list` shows them", param_hint="ID"
    )


def _since(text: str | None) -> "datetime | None":
    from datetime import UTC, datetime

    from inventory.durations import parse_duration

    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        pass
    try:
        return datetime.now(UTC) - parse_duration(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is neither a duration like 2h nor a time like 2026-01-31T08:00Z", param_hint="--since"
        ) from None


def _print_groups(groups: list[dict[str, object]], *, as_json: bool) -> None:
    from inventory.console import print_json, print_line, print_table

    if as_json:
        print_json(groups)
    elif not groups:
        print_line("no dead letters")
    else:
        columns = ("count", "reason", "topic", "first", "last", "fingerprint", "newest", "message")
        print_table(columns, [[_short(name, group[name]) for name in columns] for group in groups])


def _print_list(found: list[dict[str, object]], total: int, *, as_json: bool) -> None:
    from inventory.console import print_json, print_line, print_table

    if as_json:
        print_json(found)
    elif not found:
        print_line("no dead letters")
    else:
        columns = ("id", "failed_at", "topic", "partition", "offset", "reason", "event_id", "message")
        print_table(columns, [[_short(name, dead_letter[name]) for name in columns] for dead_letter in found])
        if total > len(found):
            print_line(f"{len(found):,} of {total:,}; --limit shows more, --group counts them by cause")


def _short(column: str, value: object) -> object:
    if column == "message" and isinstance(value, str) and len(value) > MESSAGE_WIDTH:
        return value[:MESSAGE_WIDTH] + "..."
    return value
