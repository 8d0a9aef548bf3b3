"""The worker keeps its promise under faults, for as long as CI has time; `make chaos` takes longer."""

from collections import Counter

from dev.chaos.run import Result


def test_nothing_is_lost_doubled_or_made_up_under_faults(result: Result) -> None:
    """Every acknowledged event has exactly one fate, and the books, alerts and outcomes are those of its history."""
    assert [] == [f"{violation.kind} {violation.subject}: {violation.message}" for violation in result.violations]


def test_the_run_was_worth_checking(result: Result) -> None:
    """Faults were made and made good, and every fate that an event can have was met."""
    line = result.finding.line
    kinds = Counter(done.kind for done in result.faults)
    assert len(kinds) >= 3
    assert min(line.applied, line.duplicates_suppressed, line.dead_lettered) > 0
    assert line.acknowledged == line.attempted
    assert line.acknowledged == line.applied + line.duplicates_suppressed + line.parked + line.dead_lettered


def test_the_line_names_what_jepsen_would(result: Result) -> None:
    """One line, with the seed and the commit to run it again."""
    names = [word.partition("=")[0] for word in result.line().split()]
    expected = (
        "seed commit attempted acknowledged applied duplicates_suppressed parked dead_lettered lost double_applied "
        "unexpected negative_stock ledger_errors low_stock_missing low_stock_repeated expired_though_paid faults "
        "recovery_p50 recovery_p99"
    )
    assert expected == " ".join(names)
