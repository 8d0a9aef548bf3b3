"""What several of these tests start from."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.shop import Shop, open_shop


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop]:
    """An empty shop."""
    async with open_shop(database_url) as opened:
        yield opened
