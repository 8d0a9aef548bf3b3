"""Imports stock from a CSV file: every product of the file exists afterwards, with the stock that the file says.

An import has an identity, and each of its rows is applied once: a file that is imported again must not undo the sales
since. How many rows have been applied is recorded in the transaction that applies them and kept for good.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from domain.commands import AdjustStock, CreateProduct
from domain.model import Cause, Operation, Policy, ReferenceType
from engine.tasks import BatchResult, CommandTask, TaskDisposition, Verdict
from inventory.console import ProgressLine
from inventory.errors import OperatorError
from inventory.stock.adjusting import apply_tasks, describe_refusal, refresh_cache
from inventory.stock.import_file import CheckedFile, ImportRow, rows_of
from storage import imports
from storage.cache import Cache
from storage.database import Connection, Pool
from storage.errors import is_unavailable
from storage.imports import ImportProgress, ImportRecord

SOURCE: Final = "inventory-import"
IMPORT_ROWS_PER_TRANSACTION: Final = 500
MAX_REFUSALS: Final = 20

_NAMESPACE: Final = uuid.UUID("0c9c2a4e-54d2-5c55-8f6b-7f4f0b8a3f0e")


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """A checked file, its identity, and what the ledger will say about its import.

    Without `import_id` the content of the file identifies the import. `again` makes a new import of a file that was
    imported before.
    """

    file: CheckedFile
    reason: str
    operator: str
    import_id: str | None = None
    again: bool = False


@dataclass(slots=True)
class ImportSummary:
    """What became of the rows; `refusals` describes the first few.

    `applied_before` are rows of this import that an earlier run applied or refused; they changed nothing now.
    """

    import_id: str
    rows: int = 0
    applied_before: int = 0
    created: int = 0
    changed: int = 0
    unchanged: int = 0
    refused: int = 0
    finished_before: datetime | None = None
    refusals: list[str] = field(default_factory=list)


async def import_stock(
    pool: Pool, policy: Policy, cache: Cache | None, plan: ImportPlan, progress: ProgressLine
) -> ImportSummary:
    """Create unknown products and set the stock of known ones, in bounded transactions, each row once.

    Raises OperatorError where the file changed since it was checked, the identity belongs to another file, or
    PostgreSQL fails on the way.
    """
    async with pool.acquire() as connection:
        record = await begin(connection, plan)
    done = plan.file.rows if record.finished_at is not None else record.rows_applied
    summary = ImportSummary(record.import_id, done, done, finished_before=record.finished_at)
    rows = islice(rows_of(plan.file), done, None)
    while chunk := list(islice(rows, IMPORT_ROWS_PER_TRANSACTION)):
        progress("products", summary.rows, plan.file.rows)
        applied = ImportProgress(record.import_id, summary.rows + len(chunk))
        tasks = [task for row in chunk for task in _tasks(row, plan, record.import_id)]
        try:
            result = await apply_tasks(pool, policy, tasks, applied)
        except Exception as error:
            if not is_unavailable(error):
                raise
            raise OperatorError(
                f"PostgreSQL failed after {summary.rows:,} of {plan.file.rows:,} rows ({error}): run the import again "
                "and it goes on from there"
            ) from error
        _count(summary, chunk, result)
        await refresh_cache(cache, result)
    async with pool.acquire() as connection:
        await imports.finish(connection, record.import_id)
    progress("products", summary.rows, plan.file.rows)
    return summary


async def begin(connection: Connection, plan: ImportPlan) -> ImportRecord:
    """Return the import that this plan continues, or record a new one."""
    record = await identify(connection, plan)
    if record.finished_at is None:
        await imports.begin(connection, record.import_id, record.content_digest, record.row_count, record.operator)
    return record


async def identify(connection: Connection, plan: ImportPlan) -> ImportRecord:
    """Return the import that this plan continues, or the one that it would begin; writes nothing.

    Raises OperatorError where the import id belongs to a file with other content.
    """
    file = plan.file
    if plan.import_id is not None:
        found = await imports.find(connection, plan.import_id)
        if found is not None and found.content_digest != file.digest:
            raise OperatorError(
                f"import {plan.import_id} of {found.started_at:%Y-%m-%d %H:%M} was made from another file: "
                "give this one another --import-id"
            )
        return found or _new(plan, plan.import_id)
    latest = await imports.latest_of_content(connection, file.digest)
    if latest is None:
        return _new(plan, file.digest)
    if plan.again and latest.finished_at is not None:
        return _new(plan, str(uuid.uuid5(_NAMESPACE, f"again after {latest.import_id}")))
    return latest


def _new(plan: ImportPlan, import_id: str) -> ImportRecord:
    return ImportRecord(import_id, plan.file.digest, plan.file.rows, 0, plan.operator, datetime.now(UTC), None)


def _tasks(row: ImportRow, plan: ImportPlan, import_id: str) -> Iterator[CommandTask]:
    """Yield the creation of the product and a SET to the same quantity, of which one does nothing.

    A row that expects a version is for a product that exists, so it creates none.
    """
    if row.expected_version is None:
        cause, digest = _identity(row, import_id, "create")
        yield CommandTask(CreateProduct(cause, row.product_id, row.quantity, row.threshold, plan.operator), digest)
    cause, digest = _identity(row, import_id, "set")
    yield CommandTask(
        AdjustStock(
            cause,
            row.product_id,
            Operation.SET,
            row.quantity,
            row.threshold,
            plan.reason,
            plan.operator,
            row.expected_version,
            ReferenceType.IMPORT,
        ),
        digest,
    )


def _identity(row: ImportRow, import_id: str, step: str) -> tuple[Cause, bytes]:
    """Return a cause that is the same whenever this row of this import is applied, and its digest.

    Operator and reason are left out of both: somebody else may finish an import.
    """
    content = json.dumps([import_id, *row[1:], step])
    event_id = str(uuid.uuid5(_NAMESPACE, content))
    return Cause(SOURCE, event_id, datetime.now(UTC)), hashlib.blake2b(content.encode(), digest_size=16).digest()


def _count(summary: ImportSummary, rows: Sequence[ImportRow], result: BatchResult) -> None:
    verdicts = iter(result.verdicts)
    for row in rows:
        created = next(verdicts) if row.expected_version is None else None
        adjusted = next(verdicts)
        summary.rows += 1
        if created is not None and created.disposition is TaskDisposition.APPLIED:
            summary.created += 1
        else:
            _count_adjusted(summary, row, adjusted, changed=row.product_id in result.products)


def _count_adjusted(summary: ImportSummary, row: ImportRow, adjusted: Verdict, *, changed: bool) -> None:
    if adjusted.disposition is TaskDisposition.DUPLICATE:
        summary.applied_before += 1
    elif adjusted.disposition is TaskDisposition.REFUSED:
        summary.refused += 1
        if len(summary.refusals) < MAX_REFUSALS:
            summary.refusals.append(f"line {row.line}: {describe_refusal(adjusted, row.product_id)}")
    elif changed:
        summary.changed += 1
    else:
        summary.unchanged += 1
