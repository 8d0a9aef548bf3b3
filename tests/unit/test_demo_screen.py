"""The demo's picture fits the terminal and says what the numbers say."""

import io

import pytest
from rich.console import Console

from dev.demo import lines as plain
from dev.demo import screen
from dev.demo.picture import RESERVATION_KINDS, VERDICTS, Alert, Letter, Picture, StockRow


def _picture() -> Picture:
    picture = Picture(seed=7, seconds=15)
    picture.published.update({"cart updated": 12_345, "order created": 6789, "sent again": 77, "poison": 22})
    picture.verdicts.update(dict.fromkeys(VERDICTS, 1234))
    picture.reservations.update(dict.fromkeys(RESERVATION_KINDS, 1234))
    names = ("tea-green", "tea-earl-grey", "mug-blue", "teapot-clay", "honey-jar", "tin", "strainer", "lantern-limited")
    picture.note_stock([StockRow(name, 100, 100, 20, "out") for name in names])
    for number in range(40):
        picture.alerts.append(Alert(number, "out", "lantern-limited", 0))
        picture.letters.append(Letter(number, "payment.succeeded", "deadline_expired", f"message {number} " * 20))
    picture.alert_counts["out"] = picture.letter_counts["deadline_expired"] = 40
    picture.latencies.extend([0.012, 1.234])
    return picture


def _drawn(picture: Picture, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(screen.draw(picture, width, height))
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20, 5), (72, 22), (80, 24), (120, 40), (200, 60)])
def test_the_picture_fits(width: int, height: int) -> None:
    """No line is wider and no picture higher than the terminal, however it is resized; all of its height is used."""
    lines = _drawn(_picture(), width, height)
    assert len(lines) == height
    assert [line for line in lines if len(line) > width] == []


def test_80_columns_cut_only_messages() -> None:
    """On the usual terminal all numbers and names are whole."""
    cut = [line for line in _drawn(_picture(), 80, 24) if "…" in line]
    assert [line for line in cut if "message" not in line] == []


def test_the_newest_stand_last() -> None:
    """Alerts and dead letters are read downwards."""
    lines = _drawn(_picture(), 80, 24)
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
def test_a_bar_shows_stock_against_the_fullest_shelf(on_hand: int, reserved: int, threshold: int, bar: str) -> None:
    """A hundred pieces are ten cells here; something is never drawn as nothing."""
    picture = Picture(seed=7, seconds=15)
    picture.fullest["p"] = 100
    picture.note_stock([StockRow("p", on_hand, reserved, threshold, "ok")])
    width = 10 + screen.NAME_WIDTH + 3 * screen.NUMBER_WIDTH + screen.STATUS_WIDTH
    line = next(line for line in _drawn(picture, width, 24) if line.startswith("p "))
    assert line[screen.NAME_WIDTH :][:10] == bar


def test_plain_lines_are_ascii_and_short() -> None:
    """Every pipe and every log takes them, and the summary fits 80 columns."""
    picture = _picture()
    summary = list(plain.summary(picture))
    lines = [*summary, plain.progress_line(picture), plain.alert_line(picture.alerts[0])]
    assert [line for line in lines if not line.isascii()] == []
    assert [line for line in summary if len(line) > 80] == []


def test_nothing_is_done_before_all_is_judged_and_read() -> None:
    """The demo waits for lag, outbox, its own reading and the worker's count of every record."""
    picture = Picture(seed=7, seconds=15)
    picture.published["order created"] = 2
    picture.verdicts["applied"] = 1
    assert not picture.is_done()
    picture.verdicts["duplicate"] = 1
    assert picture.is_done()
    picture.told = 1
    assert not picture.is_done()
    picture.read = 1
    picture.ends["order.created", 0] = 2
    picture.note_progress({("order.created", 0): 1})
    assert (picture.is_done(), picture.lag) == (False, 1)
