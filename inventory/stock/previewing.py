"""What an import would do to the stock as it is now: `inventory stock import --dry-run`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from domain.model import Policy
from inventory.console import ProgressLine
from inventory.stock.import_file import ImportRow, rows_of
from inventory.stock.importing import IMPORT_ROWS_PER_TRANSACTION, ImportPlan, identify
from storage.database import Connection
from storage.stock import StockLevel, read_stock

MAX_SHOWN: Final = 1_000


class RowChange(NamedTuple):
    """What one row would do; the numbers before are None for a product that does not exist."""

    line: int
    product_id: str
    effect: str
    on_hand_before: int | None
    on_hand_after: int | None
    threshold_before: int | None
    threshold_after: int | None


@dataclass(slots=True)
class ImportPreview:
    """What an import would do; `changes` shows the first of those rows that would not leave everything as it is."""

    import_id: str
    rows: int = 0
    applied_before: int = 0
    created: int = 0
    changed: int = 0
    unchanged: int = 0
    refused: int = 0
    changes: list[RowChange] = field(default_factory=list)


async def preview_import(
    connection: Connection, policy: Policy, plan: ImportPlan, progress: ProgressLine
) -> ImportPreview:
    """Compare the rows that an import would apply with the stock; writes nothing.

    Raises OperatorError like `importing.import_stock`.
    """
    record = await identify(connection, plan)
    done = plan.file.rows if record.finished_at is not None else record.rows_applied
    preview = ImportPreview(record.import_id, done, done)
    rows = islice(rows_of(plan.file), done, None)
    while chunk := list(islice(rows, IMPORT_ROWS_PER_TRANSACTION)):
        progress("products", preview.rows, plan.file.rows)
        levels = await read_stock(connection, [row.product_id for row in chunk])
        for row in chunk:
            _add(preview, _change(row, levels, policy.default_threshold))
    progress("products", preview.rows, plan.file.rows)
    return preview


def _change(row: ImportRow, levels: Mapping[str, StockLevel], default_threshold: int) -> RowChange:
    level = levels.get(row.product_id)
    if level is None:
        if row.expected_version is not None:
            return RowChange(row.line, row.product_id, "refused: unknown product", None, None, None, None)
        threshold = default_threshold if row.threshold is None else row.threshold
        return RowChange(row.line, row.product_id, "created", None, row.quantity, None, threshold)
    threshold = level.low_stock_threshold if row.threshold is None else row.threshold
    effect = _effect(row, level, threshold)
    after = level if effect.startswith("refused") else level._replace(on_hand=row.quantity)
    return RowChange(
        row.line,
        row.product_id,
        effect,
        level.on_hand,
        after.on_hand,
        level.low_stock_threshold,
        level.low_stock_threshold if after is level else threshold,
    )


def _effect(row: ImportRow, level: StockLevel, threshold: int) -> str:
    """Return what the row would do to a product that exists; refusals in the order of `domain.stock`."""
    if row.expected_version is not None and row.expected_version != level.version:
        return f"refused: version is {level.version}"
    if row.quantity < level.reserved:
        return f"refused: {level.reserved:,} reserved"
    same = (row.quantity, threshold) == (level.on_hand, level.low_stock_threshold)
    return "unchanged" if same else "changed"


def _add(preview: ImportPreview, change: RowChange) -> None:
    preview.rows += 1
    kind = change.effect.partition(":")[0]
    setattr(preview, kind, getattr(preview, kind) + 1)
    if kind != "unchanged" and len(preview.changes) < MAX_SHOWN:
        preview.changes.append(change)
