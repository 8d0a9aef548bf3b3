"""Stock as CSV: what is exported is read back as it is, whatever the ids and quantities."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given
from hypothesis import strategies as st

from domain.model import StockStatus
from inventory.identifiers import id_problem
from inventory.stock.exporting import HEADER, csv_row
from inventory.stock.import_file import check_file, rows_of
from schemas.limits import MAX_ID_LENGTH, MAX_ON_HAND, MAX_QUANTITY
from storage.stock import StockLevel

# Characters that mean something to CSV, spreadsheets or terminals come up often, any other now and then.
IDS = st.text(
    st.one_of(st.sampled_from(" ,;\"'\r\n\t=+-@\ufeff\x1a\u2028ä€😀"), st.characters(exclude_categories=["Cs"])),
    min_size=1,
    max_size=MAX_ID_LENGTH,
).filter(lambda text: id_problem(text) is None)
PRODUCTS = st.dictionaries(
    IDS, st.tuples(st.integers(0, MAX_ON_HAND), st.integers(0, MAX_QUANTITY)), min_size=1, max_size=20
)


@given(PRODUCTS)
@example({" X ": (1, 0), "X": (2, 0), "\r": (3, 0), "a\rb": (4, 0), '"': (5, 0), "=1+1": (6, 0), " ": (7, 0)})
def test_an_export_reads_back_as_it_is(products: dict[str, tuple[int, int]]) -> None:
    """Every legal id, quantity and threshold of an export is that of the import."""
    with TemporaryDirectory() as directory:
        file = Path(directory) / "stock.csv"
        lines = (
            csv_row(StockLevel(product_id, on_hand, 0, on_hand, threshold, StockStatus.OK, 1))
            for product_id, (on_hand, threshold) in products.items()
        )
        file.write_text(HEADER + "".join(lines), encoding="utf-8", newline="")
        rows = [(row.product_id, (row.quantity, row.threshold)) for row in rows_of(check_file(file))]
    assert list(products.items()) == rows
