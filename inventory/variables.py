"""The environment variables of the settings: their names, and those that are none of them."""

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

PREFIX = "INVENTORY_"
LIKE_ENOUGH = 0.8

# Variables with our prefix that are not settings: those of the tests, and those that Kubernetes sets in every pod for a
# Service whose name begins with "inventory" (INVENTORY_API_SERVICE_HOST, INVENTORY_API_PORT_80_TCP ...).
_FOREIGN = re.compile(
    r"INVENTORY_(?:TEST_\w+|REQUIRE_\w+|(?:\w+_)?SERVICE_(?:HOST|PORT(?:_\w+)?)"
    r"|(?:\w+_)?PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)"
)


def variable(field: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field.upper()


def unknown_variables(environment: Mapping[str, str], fields: Iterable[str]) -> list[str]:
    """Return one line per variable with our prefix that is none of the settings `fields`, with the nearest one."""
    known = [field.upper() for field in fields]
    problems = []
    for name, value in sorted(environment.items()):
        upper = name.upper()
        service_link = upper.endswith("_PORT") and "://" in value
        rest = upper.removeprefix(PREFIX)
        if not upper.startswith(PREFIX) or rest in known or _FOREIGN.fullmatch(upper) or service_link:
            continue
        nearest = max(known, key=lambda setting: _likeness(setting, rest))
        alike = _likeness(nearest, rest) >= LIKE_ENOUGH
        hint = f"did you mean {PREFIX}{nearest}?" if alike else "`inventory settings` lists all of them"
        problems.append(f"{name} is not a setting: {hint}")
    return problems


def _likeness(one: str, other: str) -> float:
    """Compare names by words and by letters: CART_TTL is more like CART_RESERVATION_TTL than like SWEEP_TTL."""
    words, other_words = set(one.split("_")), set(other.split("_"))
    return len(words & other_words) / len(words | other_words) + SequenceMatcher(None, one, other).ratio()
