"""Checks ids that come from files and arguments, by the same limits as those of events."""

from schemas.limits import MAX_ID_LENGTH


def id_problem(text: str, longest: int = MAX_ID_LENGTH) -> str | None:
    """Return why a text cannot be an id, worded to follow the id's name in a sentence; None if it can be one."""
    if not text:
        return "is empty"
    if len(text) > longest:
        return f"has {len(text)} characters, at most {longest} are allowed"
    if "\x00" in text:
        return "contains a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    return None
