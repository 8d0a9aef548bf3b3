"""What several of these tests start from."""

import pytest

from tests.unit.judging import Fold


@pytest.fixture
def fold() -> Fold:
    """A shop with 10 units of `p`."""
    return Fold()
