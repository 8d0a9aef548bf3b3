# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory api`: the HTTP API."""


def api() -> None:
    """Serve the HTTP API.

    The API is on INVENTORY_API_LISTEN_PORT under /api/v1/inventory, for callers with a JWT; docs/api.md describes it.
    Health and metrics are on INVENTORY_HTTP_PORT (/livez, /readyz, /metrics). Run as many as you like, beside
    workers or without any.
    """
    import asyncio

    from inventory import logs
    from inventory.http_api import run
    from inventory.settings import load_settings

    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    try:
        import uvloop
    except ImportError:  # not made for this system
        asyncio.run(run(settings))
    else:
        uvloop.run(run(settings))
