"""Backoff: how the delays of a retry loop grow, where they stop, and that they differ between workers."""

import asyncio

import pytest

from engine.backoff import Backoff


@pytest.fixture
def without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every delay is as long as it can be."""
    monkeypatch.setattr("engine.backoff.random.uniform", lambda _low, high: high)


@pytest.mark.usefixtures("without_jitter")
def test_delays_double_up_to_the_last() -> None:
    """No delay is longer than `last_seconds`, also where doubling the first does not meet it exactly."""
    backoff = Backoff(0.1, 0.5)
    assert [0.1, 0.2, 0.4, 0.5, 0.5] == [backoff.next_delay() for _ in range(5)]


@pytest.mark.usefixtures("without_jitter")
def test_a_success_starts_over() -> None:
    """After `reset` the first delay comes again."""
    backoff = Backoff(0.1, 0.5)
    for _ in range(4):
        backoff.next_delay()
    backoff.reset()
    assert [0.1, 0.2] == [backoff.next_delay(), backoff.next_delay()]


def test_jitter_takes_up_to_one_half() -> None:
    """Delays of many workers spread over the upper half of the range, and so are never near zero."""
    delays = [Backoff(1.0, 1.0).next_delay() for _ in range(1000)]
    assert 0.5 <= min(delays) < 0.6
    assert 0.9 < max(delays) <= 1.0


@pytest.mark.usefixtures("without_jitter")
async def test_wait_sleeps_for_the_next_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait is one delay, longer than the one before it."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    backoff = Backoff(0.1, 0.5)
    await backoff.wait()
    await backoff.wait()
    assert [0.1, 0.2] == slept
