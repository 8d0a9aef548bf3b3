"""Lengths of time are read as people write them and written so that they can be read again."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("900", 900),
        ("900s", 900),
        ("15m", 900),
        (" 15M ", 900),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("500ms", 0.5),
        ("7d", 604_800),
        ("PT15M", 900),
        ("P1DT1H", 90_000),
        ("pt0.5s", 0.5),
    ],
)
def test_each_form_is_read(text: str, seconds: float) -> None:
    """Plain, compound and ISO 8601 lengths mean what they say."""
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "m", "15 m", "15x", "-5m", "P", "PT", "P1DT", "P1M", "1e3", "inf", "٣m", "9" * 400]
)
def test_anything_else_is_refused(text: str) -> None:
    """A text that is no length of time raises ValueError, however odd it is."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_what_is_written_is_read_back(milliseconds: int) -> None:
    """Writing and reading a length of time loses nothing down to the millisecond."""
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration
