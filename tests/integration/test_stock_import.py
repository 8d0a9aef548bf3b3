"""`inventory stock import` and `export`: CSV in and out, on a real database."""

import csv
import gzip
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from inventory.errors import OperatorError
from tests.integration.stock_program import imported, inventory, run_sql, shown, violations, written

pytestmark = pytest.mark.usefixtures("stocked_shop")


PREVIEW_COUNTS = ("rows", "applied_before", "created", "changed", "unchanged", "refused")


def test_import_creates_and_sets(tmp_path: Path, stocked_shop: str) -> None:
    """New products are created, known ones set, equal rows change nothing; the file applies once."""
    file = written(tmp_path, "product_id,quantity,low_stock_threshold\napple,60,\ndates,7,9\nbread,5,2\ncheese,0,5\n")
    assert (4, 1, 2, 1, 0) == imported(file)
    assert [(60, 10, "ok"), (5, 2, "ok"), (0, 5, "out"), (7, 9, "low")] == [
        (row["on_hand"], row["low_stock_threshold"], row["stock_status"]) for row in shown("show")
    ]
    assert "import of stock.csv" == shown("history", "apple")[0]["reason"]
    assert (4, 0, 0, 0, 0) == imported(file)
    assert (4, 0, 0, 4, 0) == imported(file, "--again")
    assert 0 == violations(stocked_shop)


def test_import_takes_many_transactions(tmp_path: Path, stocked_shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long file is applied in bounded transactions, none of its rows twice or not at all."""
    monkeypatch.setattr("inventory.stock.importing.IMPORT_ROWS_PER_TRANSACTION", 7)
    rows = "".join(f"p{number},{number}\n" for number in range(100))
    assert (100, 100, 0, 0, 0) == imported(written(tmp_path, f"product_id,quantity\n{rows}"))
    assert {f"p{number}": number for number in range(100)} == {
        row["product_id"]: row["on_hand"] for row in shown("show", "--limit", "200") if row["product_id"][0] == "p"
    }
    assert 0 == violations(stocked_shop)


def test_import_refuses_a_row_and_applies_the_others(tmp_path: Path) -> None:
    """Less on hand than reserved is refused with its line; the rows beside it are applied."""
    file = written(tmp_path, "product_id,quantity\napple,3\nbread,8\n")
    result = inventory("import", str(file), "--json")
    assert (1, 1, 1) == (result.exit_code, json.loads(result.stdout)["refused"], json.loads(result.stdout)["changed"])
    assert "line 2: the stock of apple cannot go that low" in result.stderr


def test_an_import_does_not_undo_the_sales_since(tmp_path: Path, stocked_shop: str) -> None:
    """The same file applies once in its life, compressed or not, also when the inbox has forgotten its rows."""
    file = written(tmp_path, "product_id,quantity\nbread,100\n")
    assert (1, 0, 1, 0, 0) == imported(file)
    inventory("adjust", "bread", "--subtract", "10", "--reason", "sold")
    run_sql(stocked_shop, "DELETE FROM inbox")
    compressed = tmp_path / "again.csv.gz"
    compressed.write_bytes(gzip.compress(file.read_bytes()))
    result = inventory("import", str(compressed))
    assert "nothing was changed; --again imports it again" in result.stdout
    assert (1, 0, 0, 0, 0) == imported(file)
    assert 90 == shown("show", "bread")[0]["on_hand"]


def test_an_import_again_is_meant(tmp_path: Path) -> None:
    """`--again` and a new `--import-id` apply the rows of a file once more, a known `--import-id` does not."""
    file = written(tmp_path, "product_id,quantity\nbread,100\n")
    found = []
    for options in ((), ("--again",), ("--again",), ("--import-id", "may"), ("--import-id", "may"), ()):
        inventory("adjust", "bread", "--set", "90", "--reason", "sold")
        found.append(imported(file, *options)[2])
    assert [1, 1, 1, 1, 0, 0] == found


def test_an_import_id_belongs_to_one_file(tmp_path: Path) -> None:
    """Another file under the id of an import is refused: its rows would be taken for applied."""
    imported(written(tmp_path, "product_id,quantity\nbread,100\n"), "--import-id", "may")
    result = inventory("import", str(written(tmp_path, "product_id,quantity\nbread,200\n")), "--import-id", "may")
    assert "was made from another file" in str(result.exception)
    assert 100 == shown("show", "bread")[0]["on_hand"]


@pytest.mark.parametrize("forgotten", [False, True])
def test_an_interrupted_import_goes_on(
    tmp_path: Path, stocked_shop: str, monkeypatch: pytest.MonkeyPatch, *, forgotten: bool
) -> None:
    """Rows applied before an interruption are not applied again, however long ago; somebody else may finish it."""
    monkeypatch.setattr("inventory.stock.importing.IMPORT_ROWS_PER_TRANSACTION", 2)
    file = written(tmp_path, "product_id,quantity\napple,70\nbread,70\ncheese,70\ndates,70\neggs,70\n")
    with monkeypatch.context() as patched:
        patched.setattr("inventory.stock.importing.refresh_cache", failing_after(1))
        assert "killed" == str(inventory("import", str(file)).exception)
    assert [70, 70, 0] == [row["on_hand"] for row in shown("show")]
    inventory("adjust", "apple", "--set", "60", "--reason", "sold")
    if forgotten:
        run_sql(stocked_shop, "DELETE FROM inbox")
    assert (5, 2, 1, 0, 0) == imported(file, "--operator", "bob")
    assert [60, 70, 70, 70, 70] == [row["on_hand"] for row in shown("show")]
    assert 0 == violations(stocked_shop)


def test_an_expected_version_compares_and_sets(tmp_path: Path) -> None:
    """A row applies only to the version that it names, and never creates a product; an empty one does not compare."""
    text = "product_id,quantity,expected_version\napple,60,2\nbread,60,7\ncheese,60,\ndates,60,1\n"
    result = inventory("import", str(written(tmp_path, text)), "--json")
    assert (1, 2, 2) == (result.exit_code, *(json.loads(result.stdout)[name] for name in ("changed", "refused")))
    assert "line 3: bread has changed since: expected version 7, found 1" in result.stderr
    assert [("apple", 60), ("bread", 5), ("cheese", 60)] == [
        (row["product_id"], row["on_hand"]) for row in shown("show")
    ]


def test_a_dry_run_shows_what_would_change(tmp_path: Path) -> None:
    """Each row that would not leave everything as it is, with the numbers before and after; nothing is changed."""
    text = (
        "product_id,quantity,low_stock_threshold,expected_version\n"
        "apple,3,,\nbread,8,,\ncheese,0,5,\ndates,9,2,\neggs,9,2,1\napple pie,1,,\n"
    )
    file = written(tmp_path, text)
    before = shown("show")
    result = inventory("import", str(file), "--dry-run", "--json")
    preview = json.loads(result.stdout)
    assert 1 == result.exit_code
    assert [
        ("apple", "refused: 4 reserved", 50, 50, 10, 10),
        ("bread", "changed", 5, 8, 5, 5),
        ("dates", "created", None, 9, None, 2),
        ("eggs", "refused: unknown product", None, None, None, None),
        ("apple pie", "created", None, 1, None, 10),
    ] == [tuple(change.values())[1:] for change in preview["changes"]]
    assert (6, 0, 2, 1, 1, 2) == tuple(preview[name] for name in PREVIEW_COUNTS)
    assert "5 -> 8" in inventory("import", str(file), "--dry-run").stdout
    assert before == shown("show")
    actual = json.loads(inventory("import", str(file), "--json").stdout)
    assert [preview[name] for name in PREVIEW_COUNTS] == [actual[name] for name in PREVIEW_COUNTS]
    applied = json.loads(inventory("import", str(file), "--dry-run", "--json").stdout)
    assert (6, 6, 0, 0, 0, 0) == tuple(applied[name] for name in PREVIEW_COUNTS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("product_id,quantity\nbread,1,250\n", "line 2: 3 columns, but the header has 2"),
        ("product_id,quantity,low_stock_threshold\nbread,1\n", "line 2: 2 columns, but the header has 3"),
        ("product_id,quantity,quantity\nbread,1,2\n", "the header names quantity more than once"),
        ("product_id,quantity,note, note\nbread,1,a,b\n", "the header names note more than once"),
        (f"product_id,quantity\nbread,{10**15 + 1}\n", "line 2: quantity must be a whole number from 0 to"),
    ],
)
def test_a_file_that_could_be_misread_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """A shifted cell or a column named twice would set another quantity than the file means."""
    result = inventory("import", str(written(tmp_path, text)))
    assert problem in str(result.exception)
    assert 5 == shown("show", "bread")[0]["on_hand"]


def test_empty_cells_at_the_end_are_no_problem(tmp_path: Path) -> None:
    """Spreadsheets append them to every row."""
    assert (1, 0, 1, 0, 0) == imported(written(tmp_path, "product_id,quantity,,\nbread,8,,,\n,,,\n"))


def test_ids_are_kept_as_they_are(tmp_path: Path) -> None:
    """A space belongs to the id: `" bread "` is another product than bread."""
    assert (1, 1, 0, 0, 0) == imported(written(tmp_path, "product_id,quantity\n bread ,8\n"))
    assert {" bread ": 8, "bread": 5} == {
        row["product_id"]: row["on_hand"] for row in shown("show") if "bread" in row["product_id"]
    }


def test_more_than_an_event_can_carry_can_be_set(tmp_path: Path) -> None:
    """The stock on hand is not bounded by the quantity of one event."""
    assert 0 == inventory("adjust", "bread", "--set", "3000000", "--reason", "count").exit_code
    assert 0 == inventory("adjust", "bread", "--subtract", "1500000", "--reason", "count").exit_code
    file = tmp_path / "out.csv"
    inventory("export", str(file))
    assert (3, 0, 0, 3, 0) == imported(file)
    assert (1, 0, 1, 0, 0) == imported(written(tmp_path, f"product_id,quantity\nbread,{10**15}\n"))
    assert 10**15 == shown("show", "bread")[0]["on_hand"]


def test_a_wrong_file_changes_nothing(tmp_path: Path) -> None:
    """Every problem is named with its line, and no row is applied."""
    file = written(
        tmp_path, "product_id,quantity,low_stock_threshold\nbread,8,\nx,-1,\n,4,\ny,2.0,\nz,1,many\nbread,9,\n"
    )
    result = inventory("import", str(file))
    assert isinstance(result.exception, OperatorError)
    assert ["line 3", "line 4", "line 5", "line 6", "line 7"] == [
        line.partition(":")[0] for line in str(result.exception).splitlines()[1:]
    ]
    assert 5 == shown("show", "bread")[0]["on_hand"]


def test_a_file_without_its_columns_is_refused(tmp_path: Path) -> None:
    """The first line must name the columns."""
    result = inventory("import", str(written(tmp_path, "sku,amount\nbread,8\n")))
    assert "product_id and quantity are missing" in str(result.exception)


def test_an_export_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was exported, page by page, is imported again without a change."""
    monkeypatch.setattr("inventory.stock.exporting.EXPORT_PAGE", 2)
    file = tmp_path / "out.csv"
    assert "3 products written" in inventory("export", str(file)).stdout
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [("apple", "50", "10", "4"), ("bread", "5", "5", "0"), ("cheese", "0", "5", "0")] == [
        (row["product_id"], row["quantity"], row["low_stock_threshold"], row["reserved"]) for row in rows
    ]
    assert file.read_text() == inventory("export").stdout
    assert (3, 0, 0, 3, 0) == imported(file)
    assert [file] == list(tmp_path.iterdir())


def test_an_export_keeps_every_id(tmp_path: Path) -> None:
    """Ids with spaces, quotes, line ends or a leading `=` come back as the same products."""
    names = [" X ", "X", 'say "x"', "two\nlines", "a\rb", "=1+1", "ä,€", "\ufeffbom"]
    rows = "".join('"' + name.replace('"', '""') + f'",{number}\n' for number, name in enumerate(names))
    file = tmp_path / "stock.csv"
    file.write_text("product_id,quantity\n" + rows, encoding="utf-8", newline="")
    assert (8, 8, 0, 0, 0) == imported(file)
    out = tmp_path / "out.csv"
    inventory("export", str(out))
    assert (11, 0, 0, 11, 0) == imported(out)
    assert {name: number for number, name in enumerate(names)} == {
        row["product_id"]: row["on_hand"] for row in shown("show") if row["product_id"] in names
    }


def test_an_export_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """A folder that is not there is one clear line."""
    result = inventory("export", str(tmp_path / "nowhere" / "out.csv"))
    assert "cannot be written: No such file or directory" in str(result.exception)


def failing_after(calls: int) -> Callable[..., Awaitable[None]]:
    """Return a function that works so many times and then ends the program, as a kill would."""
    left = calls

    async def fail(*_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise RuntimeError("killed")

    return fail
