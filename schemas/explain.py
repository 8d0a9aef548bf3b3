"""Pydantic's errors as sentences for whoever published the event."""

from collections.abc import Iterator

from pydantic import ValidationError
from pydantic_core import ErrorDetails

MAX_PROBLEMS = 5
MAX_SHOWN = 60

# By pydantic's error type, filled with the error's context. Other types keep pydantic's own message.
_SENTENCES = {
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "model_type": "must be an object",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
}
_WHOLE_SENTENCES = {
    "missing": "is missing",
    "too_short": "must have at least one line, got an empty list",
}
_CONSTANTS = {None: "null", True: "true", False: "false"}


def explain(error: ValidationError, prefix: str = "") -> Iterator[str]:
    """Yield one sentence per problem: the field's path, what it must be, and what it is."""
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail["input"]:
            continue  # Pydantic counts only valid lines; the invalid ones are reported by their own errors.
        path = _path(detail["loc"], prefix)
        sentence = _sentence(detail)
        yield f"{path}: {sentence}" if path else sentence


def summary(problems: list[str]) -> str:
    """Join the problems into one line of bounded length."""
    shown = "; ".join(problems[:MAX_PROBLEMS])
    more = len(problems) - MAX_PROBLEMS
    return f"{shown}; and {more} more" if more > 0 else shown


def show(value: object) -> str:
    """Describe any value in a few printable characters, safe for logs, Kafka headers and PostgreSQL."""
    if value is None or isinstance(value, bool):
        return _CONSTANTS[value]
    if isinstance(value, str):
        # The quotes distinguish "3" from 3; repr escapes unprintable characters.
        return f"the string {_cut(value)!r}"
    if isinstance(value, bytes):
        return f"the bytes {value[:MAX_SHOWN]!r}"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    # Do not descend: a deeply nested object would exhaust the stack.
    return "an object"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _path(location: tuple[int | str, ...], prefix: str) -> str:
    path = prefix
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else step
    return path


def _sentence(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    value = detail["input"]
    match detail["type"]:
        case "missing" | "too_short" as kind:
            return _WHOLE_SENTENCES[kind]
        case "value_error":
            return str(context["error"])
        case "string_pattern_mismatch":
            # The only pattern in the contracts is `WITHOUT_NUL`.
            return "must not contain the character U+0000, which PostgreSQL cannot store"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters, got {len(value)}"
        case "too_long":
            return f"must have at most {context['max_length']} lines, got {context['actual_length']}"
        case kind:
            template = _SENTENCES.get(kind, detail["msg"].replace("{", "{{").replace("}", "}}"))
            return f"{template.format(**context)}, got {show(value)}"
