"""The demo as plain text: a line a second where there is no terminal, and the summary at the end.

ASCII only, so that any pipe or log can take it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from dev.demo.state import DISPOSITIONS, RESERVATION_KINDS, Alert, DemoState

LABEL_WIDTH: Final = 14
LINE_WIDTH: Final = 80


def progress_line(state: DemoState) -> str:
    """Return one line with the current figures, in aligned columns."""
    reservations = state.reservations
    low = [row.product_id + (" (out)" if row.status == "out" else "") for row in state.stock if row.status != "ok"]
    return (
        f"{state.now():5.1f} s  {state.handled:>6,} events {state.rate():>5,.0f}/s  lag {state.lag:>4,}  "
        f"over HTTP {sum(state.answers.values()):>4,}  "
        f"reserved {reservations['reserved']:>5,}  deducted {reservations['deducted']:>5,}  "
        f"rejected {reservations['rejected']:>4,}  dead letters {sum(state.dead_letter_counts.values()):>3,}  "
        f"low: {', '.join(low) or 'none'}"
    )


def alert_line(alert: Alert) -> str:
    """Return the line for an alert."""
    verb = "has recovered" if alert.severity == "recovered" else f"is {alert.severity}"
    return f"{alert.at:5.1f} s  alert: {alert.product_id} {verb}, {alert.available:,} available"


def summary(state: DemoState) -> Iterator[str]:
    """Give the summary, aligned and wrapped to LINE_WIDTH."""
    published = Counter(state.published)
    handled = sum(state.dispositions.values())
    yield from _row("published", {"": sum(published.values()), **dict(published.most_common())})
    yield from _row("handled", {"": handled, **{_words(name): state.dispositions[name] for name in DISPOSITIONS}})
    over_http = {
        "": sum(state.requests.values()),
        "held": state.answers["held"],
        "held in part": state.answers["short"],
    }
    yield from _row("carts by HTTP", over_http)
    yield from _row("reservations", {_words(kind): state.reservations[kind] for kind in RESERVATION_KINDS})
    yield from _row("alerts", {name: state.alert_counts[name] for name in ("low", "out", "recovered")})
    yield from _row("dead letters", dict(state.dead_letter_counts.most_common()))
    latency = state.latency()
    if latency is not None:
        median, slowest = (f"{seconds * 1000:,.0f} ms" for seconds in latency)
        yield f"{'latency':<{LABEL_WIDTH}}publishing an order to its outcome: p50 {median}, p99 {slowest}"


def _row(label: str, counts: Mapping[str, int]) -> Iterator[str]:
    """Give a label and its counts, wrapped to LINE_WIDTH."""
    line = f"{label:<{LABEL_WIDTH}}"
    first = True
    for name, count in counts.items():
        text = f"{count:,}: " if not name else f"{name} {count:,}"
        separator = "" if first or line.endswith(": ") else ", "
        if len(line) + len(separator) + len(text) > LINE_WIDTH - 1:
            yield f"{line},"
            line, separator = " " * LABEL_WIDTH, ""
        line += separator + text
        first = False
    yield line if counts else f"{line}none"


def _words(name: str) -> str:
    return name.replace("dead_lettered", "dead-lettered").replace("_", " ")
