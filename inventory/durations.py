"""Durations as people write them: `30m`, `1h30m`, `900`, `900s`, `PT30M`, `P1D`."""

import re
from datetime import timedelta

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"\d+(?:\.\d+)?"
_PLAIN = re.compile(rf"(?:{_NUMBER}(?:ms|s|m|h|d))+", re.ASCII)
_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)", re.ASCII)
_ISO = re.compile(
    rf"P(?:({_NUMBER})D)?(?:T(?=\d)(?:({_NUMBER})H)?(?:({_NUMBER})M)?(?:({_NUMBER})S)?)?",
    re.ASCII,
)


def parse_duration(text: str) -> timedelta:
    """Parse a duration; a bare number is seconds. Raises ValueError with the accepted forms."""
    text = text.strip()
    try:
        if re.fullmatch(_NUMBER, text, re.ASCII):
            return timedelta(seconds=float(text))
        if _PLAIN.fullmatch(text.lower()):
            parts = _PART.findall(text.lower())
            return timedelta(seconds=sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts))
        iso = _ISO.fullmatch(text.upper())
        if iso and any(iso.groups()):
            days, hours, minutes, seconds = (float(group or 0) for group in iso.groups())
            return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        pass
    message = f"{text!r} is not a duration; write 30m, 1h30m, 900 (seconds) or PT30M"
    raise ValueError(message)


def format_duration(duration: timedelta) -> str:
    """Format a duration in its largest whole units; `parse_duration` reads it back."""
    milliseconds = round(duration / timedelta(milliseconds=1))
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
