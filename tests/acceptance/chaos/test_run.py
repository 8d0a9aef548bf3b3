"""The worker keeps its promise under faults, in a short run; `make chaos` runs for longer."""

from collections import Counter

from dev.chaos.run import Result
from dev.records import TOPICS_IN


def test_no_event_is_lost_doubled_or_invented_under_faults(result: Result) -> None:
    """Every acknowledged event has one disposition, and stock, ledger, alerts and outcomes follow from the events."""
    assert [] == [f"{violation.kind} {violation.subject}: {violation.message}" for violation in result.violations]


def test_the_run_exercised_faults_and_dispositions(result: Result) -> None:
    """Several kinds of fault were injected, every event was published, and each record has one disposition."""
    line = result.finding.line
    kinds = Counter(done.kind for done in result.faults)
    assert len(kinds) >= 3
    assert min(line.applied, line.duplicates_suppressed, line.dead_lettered) > 0
    published = {sent.event_id for sent in result.evidence.journal if sent.position is not None}
    assert [] == [sent for sent in result.evidence.journal if sent.event_id not in published]
    records = sum(len(result.evidence.records[topic]) for topic in TOPICS_IN)
    assert records == line.applied + line.duplicates_suppressed + line.parked + line.dead_lettered
    # All but the records whose acknowledgement was lost.
    unacknowledged = sum(sent.position is None for sent in result.evidence.journal)
    assert line.acknowledged <= records <= line.acknowledged + unacknowledged


def test_the_line_has_the_fields_of_a_jepsen_report(result: Result) -> None:
    """One line, with the seed and commit that reproduce the run."""
    names = [word.partition("=")[0] for word in result.line().split()]
    expected = (
        "seed commit attempted acknowledged applied duplicates_suppressed parked dead_lettered lost double_applied "
        "unexpected negative_stock ledger_errors low_stock_missing low_stock_repeated expired_though_paid faults "
        "recovery_p50 recovery_p99"
    )
    assert expected == " ".join(names)
