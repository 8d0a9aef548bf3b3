"""How the HTTP API and commands reach the cache."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.reading import close_quietly
from inventory.settings import Settings
from storage.cache import Cache


@asynccontextmanager
async def open_cache(settings: Settings) -> AsyncIterator[Cache | None]:
    """Give the cache, or None where no Redis is set; nothing connects before the first use."""
    if settings.redis_url is None:
        yield None
        return
    cache = Cache(settings.redis_url)
    try:
        yield cache
    finally:
        await close_quietly(cache)
