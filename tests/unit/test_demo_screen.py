"""The demo's screen fits the terminal and shows the figures of its state."""

import io

import pytest
from rich.console import Console

from dev.demo import plain, screen
from dev.demo.state import DISPOSITIONS, RESERVATION_KINDS, Alert, DeadLetter, DemoState, StockRow


def _state() -> DemoState:
    state = DemoState(seed=7, seconds=15)
    state.published.update({"cart updated": 12_345, "order created": 6789, "sent again": 77, "poison": 22})
    state.dispositions.update(dict.fromkeys(DISPOSITIONS, 1234))
    state.reservations.update(dict.fromkeys(RESERVATION_KINDS, 1234))
    names = ("tea-green", "tea-earl-grey", "mug-blue", "teapot-clay", "honey-jar", "tin", "strainer", "lantern-limited")
    state.update_stock([StockRow(name, 100, 100, 20, "out") for name in names])
    for number in range(40):
        state.alerts.append(Alert(number, "out", "lantern-limited", 0))
        state.dead_letters.append(
            DeadLetter(number, "payment.succeeded", "deadline_expired", f"message {number} " * 20)
        )
    state.alert_counts["out"] = state.dead_letter_counts["deadline_expired"] = 40
    state.latencies.extend([0.012, 1.234])
    return state


def _drawn(state: DemoState, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(screen.draw(state, width, height))
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20, 5), (72, 22), (80, 24), (120, 40), (200, 60)])
def test_the_screen_fits(width: int, height: int) -> None:
    """No line is wider than the terminal and its height is used exactly, whatever its size."""
    lines = _drawn(_state(), width, height)
    assert len(lines) == height
    assert [line for line in lines if len(line) > width] == []


def test_80_columns_cut_only_messages() -> None:
    """On an 80-column terminal all numbers and names are complete."""
    cut = [line for line in _drawn(_state(), 80, 24) if "…" in line]
    assert [line for line in cut if "message" not in line] == []


def test_the_newest_stand_last() -> None:
    """Alerts and dead letters are listed oldest first."""
    lines = _drawn(_state(), 80, 24)
    assert [line.split()[0] for line in lines if "■ out" in line] == ["36.0", "37.0", "38.0", "39.0"]
    assert [line.split()[0] for line in lines if "message" in line] == ["37.0", "38.0", "39.0"]


@pytest.mark.parametrize(
    ("on_hand", "reserved", "threshold", "bar"),
    [
        (100, 0, 20, "━━┃━━━━━━━"),
        (50, 20, 90, "━━━━━────┃"),
        (0, 0, 0, "┃─────────"),
        (1, 0, 20, "━─┃───────"),
    ],
)
def test_a_bar_shows_stock_against_the_peak_on_hand(on_hand: int, reserved: int, threshold: int, bar: str) -> None:
    """A hundred units are ten cells here; more than zero is at least one cell."""
    state = DemoState(seed=7, seconds=15)
    state.peak_on_hand["p"] = 100
    state.update_stock([StockRow("p", on_hand, reserved, threshold, "ok")])
    width = 10 + screen.NAME_WIDTH + 3 * screen.NUMBER_WIDTH + screen.STATUS_WIDTH
    line = next(line for line in _drawn(state, width, 24) if line.startswith("p "))
    assert line[screen.NAME_WIDTH :][:10] == bar


def test_plain_lines_are_ascii_and_short() -> None:
    """Any pipe or log can take them, and the summary fits 80 columns."""
    state = _state()
    summary = list(plain.summary(state))
    lines = [*summary, plain.progress_line(state), plain.alert_line(state.alerts[0])]
    assert [line for line in lines if not line.isascii()] == []
    assert [line for line in summary if len(line) > 80] == []


def test_nothing_is_done_before_all_is_handled_and_read() -> None:
    """The demo waits for lag, outbox, its own reading and the worker's count of every record."""
    state = DemoState(seed=7, seconds=15)
    state.published["order created"] = 2
    state.dispositions["applied"] = 1
    assert not state.is_done()
    state.dispositions["duplicate"] = 1
    assert state.is_done()
    state.written = 1
    assert not state.is_done()
    state.read = 1
    state.ends["order.created", 0] = 2
    state.update_progress({("order.created", 0): 1})
    assert (state.is_done(), state.lag) == (False, 1)
