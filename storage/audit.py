"""The audit: stock, ledger, orders and carts must agree with each other.

`audit` reads everything in one snapshot; `quick_audit` reads what a running worker can afford: the stock, the
open holds and the newest ledger entry of each product. Both only read, and report each violation with its numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg
import orjson

from storage import audit_statements as sql
from storage.audit_checks import COUNTED_BY, QUICK_CHECKS, RULES, Check
from storage.database import Connection

MAX_EXAMPLES = 20
# The ledger is read in slices of this many products: each is an index lookup, and progress can be shown in between.
PRODUCTS_PER_SLICE = 5_000
STATEMENT_TIMEOUT_SECONDS = 3600.0
QUICK_STATEMENT_TIMEOUT_SECONDS = 120.0

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, how many are done, and how many there are."""


class Violation(NamedTuple):
    """One violation: what it concerns, and the numbers that disagree."""

    product_id: str | None
    order_id: str | None
    cart_id: str | None
    numbers: Mapping[str, Any]


class CheckResult(NamedTuple):
    """What one check found. `checked` counts the rows it read; `examples` are at most `MAX_EXAMPLES`."""

    name: Check
    rule: str
    checked: int
    violations: int
    examples: tuple[Violation, ...]


class AuditTimeoutError(Exception):
    """A statement of the audit did not end in time."""


class AuditResult(NamedTuple):
    """What an audit found, per check."""

    checks: tuple[CheckResult, ...]

    @property
    def violations(self) -> int:
        """How many violations there are in all."""
        return sum(check.violations for check in self.checks)


async def audit(connection: Connection, alerts_since: datetime, progress: Progress | None = None) -> AuditResult:
    """Run all checks in one snapshot; alerts are checked from `alerts_since` on, where retention deleted none."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(sql.SETTINGS.format(timeout=int(STATEMENT_TIMEOUT_SECONDS)))
        bounds = [row[0] for row in await connection.fetch(sql.SLICE_BOUNDARIES, PRODUCTS_PER_SLICE)]
        slices = list(zip([None, *bounds], [*bounds, None], strict=True))
        statements: list[tuple[str, Sequence[object]]] = [
            (sql.STOCK, ()),
            (sql.HOLDS, ()),
            *((statement, bounds) for bounds in slices for statement in (sql.LEDGER_ENTRIES, sql.LEDGER_STOCK)),
            (sql.ORDERS, ()),
            (sql.ORDER_LEDGER, ()),
            (sql.CARTS, ()),
            (sql.CART_LEDGER, ()),
            (sql.PARKED, ()),
            (sql.ALERTS, (alerts_since,)),
        ]
        findings = _Findings(tuple(RULES), await connection.fetchrow(sql.COUNTS, timeout=STATEMENT_TIMEOUT_SECONDS))
        for done, (statement, arguments) in enumerate(statements):
            if progress is not None:
                progress("auditing", done, len(statements))
            await findings.collect(connection, statement, arguments, STATEMENT_TIMEOUT_SECONDS)
        if progress is not None:
            progress("auditing", len(statements), len(statements))
    return findings.result()


async def quick_audit(connection: Connection) -> AuditResult:
    """Check the stock against the holds and each product's newest ledger entry, without scanning the ledger.

    Raises AuditTimeoutError where a statement does not end in time.
    """
    timeout = QUICK_STATEMENT_TIMEOUT_SECONDS
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(sql.SETTINGS.format(timeout=int(timeout)))
            findings = _Findings(QUICK_CHECKS, await connection.fetchrow(sql.QUICK_COUNTS, timeout=timeout))
            for statement in (sql.STOCK, sql.HOLDS, sql.LAST_ENTRY_STOCK):
                await findings.collect(connection, statement, (), timeout)
    except (TimeoutError, asyncpg.QueryCanceledError) as error:
        raise AuditTimeoutError from error
    return findings.result()


class _Findings:
    """Counts violations by check, and keeps the first few of each as examples."""

    def __init__(self, checks: Sequence[Check], counts: Mapping[str, int]) -> None:
        self._counts = counts
        self._totals = dict.fromkeys(checks, 0)
        self._examples: dict[Check, list[Violation]] = {check: [] for check in checks}

    async def collect(
        self, connection: Connection, statement: str, arguments: Sequence[object], timeout_seconds: float
    ) -> None:
        rows = await connection.fetch(
            sql.BOUNDED.format(statement=statement), MAX_EXAMPLES, *arguments, timeout=timeout_seconds
        )
        for name, total in {row[0]: row[1] for row in rows}.items():
            self._totals[Check(name)] += total
        for name, _, product_id, order_id, cart_id, numbers in rows:
            examples = self._examples[Check(name)]
            if len(examples) < MAX_EXAMPLES:
                examples.append(Violation(product_id, order_id, cart_id, orjson.loads(numbers)))

    def result(self) -> AuditResult:
        return AuditResult(
            tuple(
                CheckResult(check, RULES[check], self._counts[COUNTED_BY[check]], total, tuple(self._examples[check]))
                for check, total in self._totals.items()
            )
        )
