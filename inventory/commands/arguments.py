# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""Arguments that several commands share, and the checks of their values."""

from typing import Annotated

import typer

Operator = Annotated[str | None, typer.Option(help="Who makes the change; your login name if not given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def checked_operator(name: str | None) -> str:
    """Return the operator: the name given, or the login name."""
    import getpass

    if name is not None:
        return checked_text(name) or ""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A user id in a container may have no name.
        return "unknown"


def checked_id(text: str, argument: str, longest: int | None = None) -> str:
    """Refuse what cannot be an id."""
    from inventory.identifiers import id_problem
    from schemas.limits import MAX_ID_LENGTH

    if problem := id_problem(text, longest or MAX_ID_LENGTH):
        raise typer.BadParameter(f"the id {problem}", param_hint=argument)
    return text


def checked_topic(text: str, argument: str) -> str:
    """Refuse a topic that the worker does not read: an empty answer would look as if all were well."""
    from schemas.topics import TOPICS_IN

    if text not in TOPICS_IN:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(TOPICS_IN)}", param_hint=argument)
    return text


def checked_text(text: str | None) -> str | None:
    """Refuse text that is not UTF-8, which a terminal may pass on and PostgreSQL cannot store."""
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("is not valid UTF-8") from None
    return text
