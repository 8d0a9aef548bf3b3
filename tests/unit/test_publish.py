"""`inventory publish` reads files as they come, says what is wrong with them, and stamps events with the present."""

import asyncio
import gzip
import json
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from inventory import publisher
from inventory.commands import publish as publish_command
from inventory.csv_rows import open_rows
from inventory.errors import OperatorError
from inventory.history import HistoryEvent, invoice_events, read_lines
from inventory.publisher import Plan, Summary, binary_headers, dry_run
from schemas.envelope import decode

HEADER = "InvoiceNo,StockCode,Quantity,InvoiceDate,CustomerID\n"
ROWS = HEADER + "1,a,2,2010-12-01T08:00:00Z,9\nC2,a,-1,2010-12-01T09:00:00Z,9\n"


def _file(directory: Path, content: bytes) -> Path:
    path = directory / "history.csv"
    path.write_bytes(content)
    return path


def _publish(*arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INVENTORY_")}
    return subprocess.run(
        [sys.executable, "-m", "inventory", "publish", *arguments],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("content", [ROWS.encode(), gzip.compress(ROWS.encode(), mtime=0), ROWS.encode("utf-8-sig")])
def test_plain_packed_and_spreadsheet_files_are_read_alike(tmp_path: Path, content: bytes) -> None:
    """What a file is follows from its bytes, not from its name."""
    assert list(open_rows(_file(tmp_path, content))) == [
        (1, HEADER.strip().split(",")),
        (2, ["1", "a", "2", "2010-12-01T08:00:00Z", "9"]),
        (3, ["C2", "a", "-1", "2010-12-01T09:00:00Z", "9"]),
    ]


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(ROWS.encode() * 100)[:-20],
        b"\x1f\x8b\x08\x00 not gzip",
        HEADER.encode() + b"1,\xff,2,D,9\n",
        HEADER.encode() + b'1,"a"b,2,D,9\n',
    ],
    ids=["truncated gzip", "broken gzip", "not UTF-8", "broken quotes"],
)
def test_a_broken_file_is_an_operators_error(tmp_path: Path, content: bytes) -> None:
    """Bytes that are no CSV in UTF-8 are named with the file, whatever is wrong with them."""
    path = _file(tmp_path, content)
    with pytest.raises(OperatorError, match=r"history\.csv"):
        list(open_rows(path))


def test_line_numbers_are_those_of_an_editor(tmp_path: Path) -> None:
    """A quoted line break within a field counts as a line."""
    path = _file(tmp_path, HEADER.encode() + b'1,"a\nb",2,2010-12-01,9\n1,c,x,2010-12-01,9\n')
    with pytest.raises(OperatorError, match="line 4: Quantity 'x'"):
        list(read_lines(open_rows(path)))


def test_a_dry_run_prints_events_in_order_and_reaches_nothing(tmp_path: Path) -> None:
    """Products first, then the invoices' events, each a line of JSON; no setting and no server is needed."""
    result = _publish(str(_file(tmp_path, ROWS.encode())), "--dry-run", "--initial-stock", "7", "--threshold", "1")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["topic"] for event in events] == [
        "product.created",
        "cart.updated",
        "order.created",
        "payment.succeeded",
        "payment.refunded",
    ]
    assert events[0]["data"] == {"product_id": "a", "initial_quantity": 7, "low_stock_threshold": 1}
    assert events[4]["invoice_date"] == "2010-12-01T09:00:00Z"


def test_a_bad_row_is_one_line_and_code_2(tmp_path: Path) -> None:
    """The line number is in the message; nothing was published before it was read."""
    result = _publish(str(_file(tmp_path, ROWS.encode() + b"3,a,x,2010-12-01,9\n")), "--dry-run")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "inventory: line 4: Quantity 'x' is not a whole number\n"


@pytest.mark.parametrize(
    "arguments",
    [("--initial-stock", "plenty"), ("--initial-stock", "1000001"), ("--speed", "0"), ("--threshold", "-1")],
)
def test_wrong_options_are_wrong_use(tmp_path: Path, arguments: tuple[str, str]) -> None:
    """An option's value is checked before the file is read."""
    result = _publish(str(_file(tmp_path, b"")), *arguments)
    assert (result.returncode, arguments[0] in result.stderr) == (2, True)


def test_events_carry_the_present_as_cloudevents(tmp_path: Path) -> None:
    """What is sent is accepted as a binary CloudEvent that happened at the moment of publishing."""
    now = datetime.now(UTC)
    for event in invoice_events(read_lines(open_rows(_file(tmp_path, ROWS.encode())))):
        value = json.dumps(event.data).encode()
        received = decode(event.topic, value, binary_headers(event, now), int(now.timestamp() * 1000))
        assert (received.id, received.source, received.type, received.occurred_at) == (
            event.id,
            "inventory.publish",
            event.topic,
            now,
        )


def test_the_pace_of_the_file_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 60 times real time an hour of the file takes a minute, and being late waits for nothing."""
    slept: list[float] = []
    clock = [100.0]

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pace = publisher.Pace(60.0)
    start = datetime(2010, 12, 1, 8, tzinfo=UTC)
    for minutes in (0, 60, 60, 30):
        event = HistoryEvent("t", "k", "i", {}, start + timedelta(minutes=minutes))
        asyncio.run(pace.wait_for(event))
    assert slept == [0.0, 60.0, 0.0, 0.0]


def test_a_plan_reads_a_file_that_is_not_there_as_an_operators_error(tmp_path: Path) -> None:
    """A file that vanished is named."""
    with pytest.raises(OperatorError, match=r"gone\.csv cannot be read: No such file"):
        list(dry_run(Plan(tmp_path / "gone.csv")))


def test_a_summary_counts_what_people_ask_for() -> None:
    """Orders, payments, refunds, cancellations and adjustments come from the events that were sent."""
    counts = Counter({"order.created": 3, "payment.succeeded": 3, "payment.refunded": 1, "cart.updated": 3})
    summary = Summary(rows=9, products=2, invoices=4, events=counts, seconds=2.0).as_dict()
    assert (summary["orders"], summary["payments"], summary["refunds"], summary["cancellations"]) == (3, 3, 1, 0)
    assert (summary["events"], summary["events_per_second"]) == (10, 5)


def test_a_summary_says_that_existing_products_keep_their_stock(capsys: pytest.CaptureFixture[str]) -> None:
    """A second file of the same products adds no stock, so its orders may be rejected: the operator learns it here."""
    publish_command._print_summary(Summary(1, 1, 1, Counter(), 1.0), as_json=False)  # noqa: SLF001 - what is printed
    assert "products that existed before keep their stock" in capsys.readouterr().out
