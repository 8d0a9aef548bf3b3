# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory run`: the worker."""

from typing import Annotated

import typer


def run(
    *,
    roles: Annotated[
        str, typer.Option(help="Which parts this process runs, separated by commas: consumer, relay, sweeper.")
    ] = "consumer,relay,sweeper",
) -> None:
    """Run the worker: events in, stock and alerts out.

    Consumes events, publishes outcomes and alerts, expires holds.

    Health and metrics are on INVENTORY_HTTP_PORT (/livez, /readyz, /metrics). SIGTERM finishes the batch at hand and
    leaves; a second one stops at once. Run as many as the topics have partitions.
    """
    import asyncio

    from inventory import logs
    from inventory.errors import OperatorError
    from inventory.settings import load_settings
    from inventory.worker import ROLES, run

    wanted = [role.strip() for role in roles.split(",") if role.strip()]
    unknown = [role for role in wanted if role not in ROLES]
    if unknown or not wanted:
        raise OperatorError(f"--roles takes {', '.join(ROLES)}, got {roles!r}")
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    try:
        import uvloop
    except ImportError:  # not made for this system
        asyncio.run(run(settings, wanted))
    else:
        uvloop.run(run(settings, wanted))
