"""Renders the demo's state as a full terminal screen."""

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from dev.demo.state import DISPOSITIONS, RESERVATION_KINDS, Alert, DeadLetter, DemoState, StockRow

NARROWEST: Final = 72
LOWEST: Final = 22
NAME_WIDTH: Final = 17
NUMBER_WIDTH: Final = 8
STATUS_WIDTH: Final = 6
RESERVATIONS_WIDTH: Final = 40
RESERVATION_ROWS: Final = 4
ALERTS_NARROWEST: Final = 10

_Item = TypeVar("_Item")

# Fixed lines: title, two of figures, three headings, three gaps.
_FRAME_LINES: Final = 9
_DEAD_LETTERED: Final = "dead_lettered"
_STATUS_STYLES: Final = {"ok": "green", "low": "yellow", "out": "red"}
_ALERT_STYLES: Final = {"low": "yellow", "out": "red", "recovered": "green"}
_ALERT_MARKS: Final = {"low": "▼", "out": "■", "recovered": "▲"}
_HEADING: Final = "bold"
_QUIET: Final = "bright_black"


def draw(state: DemoState, width: int, height: int) -> RenderableType:
    """Return the screen: lines of at most `width` columns, at most `height` of them."""
    free = max(height - _FRAME_LINES - len(state.stock), RESERVATION_ROWS + 1)
    alert_rows = max(RESERVATION_ROWS, free // 2)
    dead_letter_rows = max(free - alert_rows, 1)
    lines = [
        _title(state, width),
        _figures(state),
        _dispositions(state),
        Text(),
        _stock_heading(width),
        *(_stock_line(row, state.peak_on_hand.get(row.product_id, 1), width) for row in state.stock),
        Text(),
        *_side_by_side(
            _alerts(state, alert_rows), _reservations(state), max(width - RESERVATIONS_WIDTH, ALERTS_NARROWEST)
        ),
        Text(),
        *_dead_letters(state, dead_letter_rows, width),
    ]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return Group(*lines[:height])


# --- the parts of the screen ----------------------------------------------------------------------


def _title(state: DemoState, width: int) -> Text:
    left = Text.assemble(("inventory demo", "bold cyan"), (f"   seed {state.seed}", _QUIET))
    carts = sum(state.answers.values())
    left.append(f"   {carts:,}", "bold").append(f" carts over HTTP, {state.answers['short']:,} short", _QUIET)
    if state.closed:
        right = Text("closed, finishing", "cyan")
    else:
        right = Text(f"open {min(state.now(), state.seconds):.0f} s of {state.seconds:.0f} s", "cyan")
    return _justified(left, right, width)


def _figures(state: DemoState) -> Text:
    text = Text()
    for number, name in ((f"{state.rate():,.0f}", "events/s"), (state.lag, "lag"), (state.outbox, "outbox")):
        text.append(f"{number:>6}", "bold").append(f" {name}  ", _QUIET)
    latency = state.latency()
    if latency is not None:
        text.append(" latency ", _QUIET)
        text.append(f"p50 {_milliseconds(latency[0])}  p99 {_milliseconds(latency[1])}")
    return text


def _dispositions(state: DemoState) -> Text:
    text = Text()
    for disposition in DISPOSITIONS:
        count = state.dispositions[disposition]
        text.append(f"{count:>6,}", "bold red" if disposition == _DEAD_LETTERED and count else "bold")
        text.append(f" {'dead' if disposition == _DEAD_LETTERED else disposition}  ", _QUIET)
    return text


def _stock_heading(width: int) -> Text:
    left = Text().append("STOCK  ", _HEADING)
    for mark, name, style in (("━", "available", "green"), ("━", "reserved", "blue"), ("┃", "threshold", _QUIET)):
        left.append(f"{mark} ", style).append(f"{name} ", _QUIET)
    left.rstrip()
    names = "".join(name.rjust(NUMBER_WIDTH) for name in ("avail", "resvd", "on hand"))
    return _justified(left, Text(names.ljust(len(names) + STATUS_WIDTH), _QUIET), width)


def _stock_line(row: StockRow, peak_on_hand: int, width: int) -> Text:
    bar_width = max(width - NAME_WIDTH - 3 * NUMBER_WIDTH - STATUS_WIDTH, 5)
    style = _STATUS_STYLES.get(row.status, "white")
    text = Text(_fitted(row.product_id, NAME_WIDTH))
    text.append_text(_bar(row, max(peak_on_hand, row.threshold), bar_width, style))
    text.append(f"{row.available:>{NUMBER_WIDTH},}", style)
    text.append(f"{row.reserved:>{NUMBER_WIDTH},}", "blue" if row.reserved else _QUIET)
    text.append(f"{row.on_hand:>{NUMBER_WIDTH},}")
    text.append(f"  {'' if row.status == 'ok' else row.status}".ljust(STATUS_WIDTH), f"bold {style}")
    return text


def _bar(row: StockRow, peak_on_hand: int, width: int, style: str) -> Text:
    """Draw available, then reserved, then empty up to the most that was on hand, with a mark at the threshold."""
    available = _cells(row.available, peak_on_hand, width)
    reserved = min(_cells(row.reserved, peak_on_hand, width), width - available)
    bar = Text().append("━" * available, style)
    bar.append("━" * reserved, "blue")
    bar.append("─" * (width - available - reserved), _QUIET)
    mark = min(_cells(row.threshold, peak_on_hand, width), width - 1)
    bar.plain = f"{bar.plain[:mark]}┃{bar.plain[mark + 1 :]}"
    return bar


def _cells(quantity: int, peak_on_hand: int, width: int) -> int:
    """Return how many cells a quantity fills, at least one unless it is zero."""
    return 0 if quantity <= 0 else min(max(round(quantity / max(peak_on_hand, 1) * width), 1), width)


def _alerts(state: DemoState, rows: int) -> list[Text]:
    """Return the heading and the newest alerts, the newest last."""
    lines = [_heading("ALERTS", sum(state.alert_counts.values()))]
    lines.extend(_alert_line(alert) for alert in _last(state.alerts, rows))
    return lines + [Text() for _ in range(rows + 1 - len(lines))]


def _alert_line(alert: Alert) -> Text:
    style = _ALERT_STYLES.get(alert.severity, "white")
    text = Text().append(f"{alert.at:5.1f} ", _QUIET)
    text.append(f"{_ALERT_MARKS.get(alert.severity, ' ')} {alert.severity:<9} ", style)
    text.append(_fitted(alert.product_id, NAME_WIDTH - 1))
    return text.append(f"{alert.available:>4,}", style)


def _reservations(state: DemoState) -> list[Text]:
    """Return the heading and the outcomes of reservations, in two columns."""
    lines = [_heading("RESERVATIONS", sum(state.reservations.values()))]
    kinds = (RESERVATION_KINDS[:RESERVATION_ROWS], RESERVATION_KINDS[RESERVATION_ROWS:])
    for pair in zip(*kinds, strict=True):
        text = Text()
        for kind in pair:
            count = state.reservations[kind]
            text.append(f"{kind.replace('_', ' '):<14}", _QUIET if count == 0 else "")
            text.append(f"{count:>5,}  ", _QUIET if count == 0 else "bold")
        text.rstrip()
        lines.append(text)
    return lines


def _dead_letters(state: DemoState, rows: int, width: int) -> list[Text]:
    """Return the heading, with the counts by reason where they fit, and the newest dead letters, the newest last."""
    heading = _heading("DEAD LETTERS", sum(state.dead_letter_counts.values()))
    reasons = "  ".join(f"{reason} {count}" for reason, count in sorted(state.dead_letter_counts.items()))
    if heading.cell_len + len(reasons) <= width:
        heading.append(reasons, _QUIET)
    return [heading, *(_dead_letter_line(dead_letter) for dead_letter in _last(state.dead_letters, rows))]


def _dead_letter_line(dead_letter: DeadLetter) -> Text:
    text = Text().append(f"{dead_letter.at:5.1f} ", _QUIET)
    text.append(f"{dead_letter.topic:<17} ").append(f"{dead_letter.reason:<16} ", "red")
    return text.append(dead_letter.message, _QUIET)


# --- text -----------------------------------------------------------------------------------------


def _heading(name: str, count: int) -> Text:
    return Text.assemble((name, _HEADING), (f" {count:,}   ", _QUIET))


def _side_by_side(left: Sequence[Text], right: Sequence[Text], left_width: int) -> list[Text]:
    lines = []
    for place in range(max(len(left), len(right))):
        text = left[place].copy() if place < len(left) else Text()
        text.truncate(left_width - 2, overflow="ellipsis")
        text.pad_right(left_width - text.cell_len)
        if place < len(right):
            text.append_text(right[place])
        lines.append(text)
    return lines


def _justified(left: Text, right: Text, width: int) -> Text:
    text = left.copy()
    text.pad_right(max(width - left.cell_len - right.cell_len, 1))
    return text.append_text(right)


def _fitted(text: str, width: int) -> str:
    return (text if len(text) < width else f"{text[: width - 2]}…").ljust(width)


def _last(items: Iterable[_Item], count: int) -> list[_Item]:
    return list(items)[-count:]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"
