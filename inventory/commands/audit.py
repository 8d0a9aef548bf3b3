# ruff: noqa: PLC0415 - imports inside, so that --help is instant
"""`inventory audit`: checks that stock, ledger, orders and carts agree."""

from typing import TYPE_CHECKING

import typer

from inventory.commands.arguments import AsJson

if TYPE_CHECKING:
    from inventory.settings import Settings
    from storage.audit import AuditResult, Violation

# Alerts are checked in this share of the outbox's retention: the clock of the worker that prunes it may differ from the
# database's.
JUDGED_SHARE_OF_RETENTION = 0.9


def audit(
    *,
    as_json: AsJson = False,
) -> None:
    """Check that stock, ledger, orders and carts agree.

    Reads one snapshot and changes nothing, so it can run beside busy workers. Prints a line per check, then up to 20
    violations of each with their numbers. Ends with `audit: ok` and exit code 0, or with the number of violations and
    exit code 1.
    """
    import asyncio

    from inventory.settings import load_settings

    result = asyncio.run(_audit(load_settings()))
    if as_json:
        _print_json(result)
    else:
        _print(result)
    if result.violations:
        raise typer.Exit(1)


async def _audit(settings: "Settings") -> "AuditResult":
    from datetime import UTC, datetime

    from inventory.console import progress
    from inventory.database import connection, require_migrated
    from storage.audit import audit as audit_everything

    async with connection(settings) as opened:
        await require_migrated(opened)
        since = datetime.now(UTC) - settings.outbox_retention * JUDGED_SHARE_OF_RETENTION
        with progress() as show:
            return await audit_everything(opened, since, show)


def _print_json(result: "AuditResult") -> None:
    from inventory.console import print_json

    checks = [
        {**check._asdict(), "examples": [violation._asdict() for violation in check.examples]}
        for check in result.checks
    ]
    print_json({"ok": not result.violations, "violations": result.violations, "checks": checks})


def _print(result: "AuditResult") -> None:
    from inventory.console import print_line, print_table

    print_table(
        ("check", "looked at", "violations", "rule"),
        [(check.name, check.checked, check.violations, check.rule) for check in result.checks],
    )
    for check in result.checks:
        for violation in check.examples:
            print_line(f"{check.name}: {_described(violation)}")
        if check.violations > len(check.examples):
            print_line(f"{check.name}: ... and {check.violations - len(check.examples):,} more")
    noun = "violation" if result.violations == 1 else "violations"
    print_line(f"audit: {result.violations:,} {noun}" if result.violations else "audit: ok")


def _described(violation: "Violation") -> str:
    from inventory.console import printable

    owners = [
        f"{kind} {printable(owner)}"
        for kind, owner in (
            ("product", violation.product_id),
            ("order", violation.order_id),
            ("cart", violation.cart_id),
        )
        if owner is not None
    ]
    numbers = " ".join(f"{name}={printable(str(value))}" for name, value in violation.numbers.items())
    return f"{', '.join(owners)}: {numbers}" if owners else numbers
