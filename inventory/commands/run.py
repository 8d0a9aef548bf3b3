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
    """Run the worker: apply events and publish the outcomes.

    Consumes events, publishes outcomes and alerts, expires holds.

    Health and metrics are served on INVENTORY_HTTP_PORT (/livez, /readyz, /metrics). SIGTERM stops after the current
    batch; a second one stops at once. Run up to as many workers as the topics have partitions.
    """
    import asyncio

    from inventory import logs
    from inventory.errors import OperatorError
    from inventory.settings import load_settings
    from inventory.wiring import Role
    from inventory.worker import run

    names = [name.strip() for name in roles.split(",") if name.strip()]
    if not names or not set(names).issubset(Role):
        raise OperatorError(f"--roles takes {', '.join(Role)}, separated by commas, got {roles!r}")
    wanted = [Role(name) for name in names]
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    try:
        import uvloop
    except ImportError:  # not made for this system
        asyncio.run(run(settings, wanted))
    else:
        uvloop.run(run(settings, wanted))
