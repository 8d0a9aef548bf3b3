"""What the checker found: the counts of a run in one line, and the violations behind them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from typing_extensions import override

from dev.oracle.observations import Violation

# The count of the line that a kind of violation goes to; all other kinds count as unexpected.
COUNTED_AS: Mapping[str, str] = {
    "lost": "lost",
    "double_applied": "double_applied",
    "oversold": "negative_stock",
    "ledger": "ledger_errors",
    "low_stock_missing": "low_stock_missing",
    "low_stock_repeated": "low_stock_repeated",
    "expired_though_paid": "expired_though_paid",
}


@dataclass
class Line:
    """The counts of one run, in the order in which they are printed."""

    attempted: int = 0
    acknowledged: int = 0
    applied: int = 0
    duplicates_suppressed: int = 0
    parked: int = 0
    dead_lettered: int = 0
    lost: int = 0
    double_applied: int = 0
    unexpected: int = 0
    negative_stock: int = 0
    ledger_errors: int = 0
    low_stock_missing: int = 0
    low_stock_repeated: int = 0
    expired_though_paid: int = 0

    @override
    def __str__(self) -> str:
        return " ".join(f"{name.name}={getattr(self, name.name)}" for name in fields(self))


@dataclass
class Finding:
    """The counts and the violations behind them."""

    line: Line = field(default_factory=Line)
    violations: list[Violation] = field(default_factory=list)

    def add(self, violations: Iterable[Violation]) -> None:
        """Add violations to the list and to the counts."""
        for violation in violations:
            self.violations.append(violation)
            name = COUNTED_AS.get(violation.kind, "unexpected")
            setattr(self.line, name, getattr(self.line, name) + 1)
