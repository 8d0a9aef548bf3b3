"""A leak fails the test that made it: what an asynchronous test left unclosed is collected at its own end.

Without this the garbage collector finds an unclosed connection some time later, and its ResourceWarning fails
whichever test runs then.
"""

import gc
import inspect
from collections.abc import Iterator

import pytest


def forget_what_is_loaded() -> None:
    """Exclude what is in memory now from later collections, which makes them cheap."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def collect_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect after the test's event loop has closed; autouse fixtures are torn down last."""
    yield
    if inspect.iscoroutinefunction(request.function) or "tests/unit" not in request.path.as_posix():
        gc.collect()
