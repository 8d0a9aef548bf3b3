# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory token`: a token for development."""

from typing import Annotated

import typer

ROLES = ("user", "service", "admin")


def token(
    *,
    subject: Annotated[str, typer.Option(help="Whose token it is: the owner of carts and orders.")],
    role: Annotated[list[str] | None, typer.Option(help="user, service or admin; give it again for several.")] = None,
    expires_in: Annotated[str, typer.Option(help="How long it is valid.")] = "12h",
) -> None:
    """Print a token for the HTTP API, for development.

    The token is signed with INVENTORY_API_HS256_SECRET, so whoever runs this can already do everything.
    """
    import time

    from api.auth import Principal, Role, development_token, is_subject
    from inventory.console import print_line
    from inventory.durations import parse_duration
    from inventory.errors import OperatorError
    from inventory.settings import load_settings
    from inventory.tokens import token_rules
    from inventory.variables import variable

    settings = load_settings()
    if settings.api_hs256_secret is None:
        raise OperatorError(f"{variable('api_hs256_secret')} is not set: tokens come from your issuer")
    roles = role or ["user"]
    if unknown := [name for name in roles if name not in ROLES]:
        raise OperatorError(f"--role takes {', '.join(ROLES)}, got {', '.join(unknown)}")
    if not is_subject(subject):
        raise OperatorError("--subject must be printable text of 1 to 200 characters")
    try:
        seconds = int(parse_duration(expires_in).total_seconds())
    except ValueError as error:
        raise OperatorError(f"--expires-in: {error}") from error
    secret = settings.api_hs256_secret.get_secret_value()
    principal = Principal(subject, frozenset(Role(name) for name in roles))
    print_line(development_token(secret, token_rules(settings), principal, seconds, int(time.time())))
