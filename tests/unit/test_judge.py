"""The fold of a batch, given/when/then, without a database: verdicts, and the rows that would be written."""

from datetime import timedelta

import pytest

from domain.commands import AdjustStock, CancelOrder, CreateOrder, ForgetFact, PayOrder, RefundOrder
from domain.model import Cause, Disposition, Operation, Reason, ResolvedFact
from engine.dead_letters import build_dead_letter
from engine.judge import Changes, key_of
from engine.tasks import CommandTask, DeadLetterTask, DeadlineTask, EventTask, Verdict, command_task
from storage.dead_letters import DeadLetterReason, ParkedEvent
from storage.save import InboxRow
from tests.unit.domain_cases import at
from tests.unit.judging import (
    APPLIED,
    CONFLICT,
    DEAD_LETTERED,
    DUPLICATE,
    NOW,
    PARKED,
    REFUSED,
    Fold,
    adjusted,
    cause,
    created,
    dispositions,
    event,
    paid,
    record,
)


@pytest.mark.parametrize("batches", [1, 2], ids=["in one batch", "in a later batch"])
def test_a_repeat_is_a_duplicate(fold: Fold, batches: int) -> None:
    """The same id with the same content is applied once, and nothing is written for the repeat."""
    if batches == 1:
        changes = fold.batch(adjusted(5), adjusted(5))
        assert [Verdict(APPLIED), Verdict(DUPLICATE)] == changes.verdicts
        assert 1 == len(changes.ledger)
    else:
        fold.batch(adjusted(5))
        assert Changes(verdicts=[Verdict(DUPLICATE)]) == fold.batch(adjusted(5))
    assert (15, 0) == fold.stock()


@pytest.mark.parametrize("batches", [1, 2], ids=["in one batch", "in a later batch"])
def test_an_events_id_with_other_content_is_dead_lettered(fold: Fold, batches: int) -> None:
    """The record goes to the dead letters with the identity of its event; nothing else changes."""
    first, other = adjusted(5), adjusted(6, b"2")
    if batches == 1:
        changes = fold.batch(first, other)
        assert APPLIED is changes.verdicts[0].disposition
    else:
        fold.batch(first)
        changes = fold.batch(other)
        assert Changes(verdicts=changes.verdicts, dead_letters=changes.dead_letters) == changes
    message = "another event with this id and source was received before, with other content"
    assert Verdict(DEAD_LETTERED, DeadLetterReason.ID_REUSED, message) == changes.verdicts[-1]
    assert [
        build_dead_letter(
            other.record,
            DeadLetterReason.ID_REUSED,
            message,
            NOW,
            event_id="add",
            event_type="type-add",
            source="shop",
        )
    ] == changes.dead_letters
    assert b"1" == fold.known["shop", "add"]
    assert (15, 0) == fold.stock()


def test_identity_is_source_and_id(fold: Fold) -> None:
    """The same id from another source is another event."""
    elsewhere = AdjustStock(Cause("warehouse", "add", at(0)), "p", Operation.ADD, 5)
    changes = fold.batch(adjusted(5), event(elsewhere))
    assert [APPLIED, APPLIED] == dispositions(changes)
    assert {("shop", "add"), ("warehouse", "add")} == changes.inbox.keys()
    assert (20, 0) == fold.stock()


def test_a_repeated_request_is_a_duplicate(fold: Fold) -> None:
    """A person or a program can try a request again."""
    request = command_task(AdjustStock(cause("add"), "p", Operation.ADD, 5))
    assert [Verdict(APPLIED), Verdict(DUPLICATE)] == fold.batch(request, request).verdicts
    assert [Verdict(DUPLICATE)] == fold.batch(request).verdicts
    assert (15, 0) == fold.stock()


def test_a_request_tried_again_later_is_the_same_request(fold: Fold) -> None:
    """The time of the attempt is no part of what it asks for; the digest is 16 bytes of everything else."""
    first, again, other = (
        command_task(AdjustStock(cause("add", minutes), "p", Operation.ADD, quantity))
        for minutes, quantity in ((0, 5), (9, 5), (9, 6))
    )
    assert (first.digest, 16) == (again.digest, len(first.digest))
    assert first.digest != other.digest
    assert [APPLIED, DUPLICATE, CONFLICT] == dispositions(fold.batch(first, again, other))


def test_a_digest_names_the_command() -> None:
    """Commands of two kinds with equal fields ask for different things."""
    paid_, cancelled = PayOrder(cause("x"), "o"), CancelOrder(cause("x"), "o")
    assert command_task(paid_).digest != command_task(cancelled).digest


def test_a_requests_id_with_other_content_is_a_conflict(fold: Fold) -> None:
    """There is no record to dead-letter: the caller gets the verdict, and nothing changes."""
    fold.batch(adjusted(5))
    changes = fold.batch(command_task(AdjustStock(cause("add"), "p", Operation.ADD, 6)))
    message = "another event with this id and source was received before, with other content"
    verdict = Verdict(CONFLICT, DeadLetterReason.ID_REUSED, message)
    assert Changes(verdicts=[verdict]) == changes
    assert (15, 0) == fold.stock()


def test_the_inbox_has_what_became_of_an_event(fold: Fold) -> None:
    """Its digest, disposition and reason, for events and requests alike."""
    changes = fold.batch(
        adjusted(5, b"digest"),
        CommandTask(AdjustStock(cause("set"), "x", Operation.SET, 1), b"other"),
    )
    assert [Verdict(APPLIED), Verdict(REFUSED, Reason.UNKNOWN_PRODUCT)] == changes.verdicts
    assert {
        ("shop", "add"): InboxRow("add", "shop", b"digest", Disposition.APPLIED, None),
        ("shop", "set"): InboxRow("set", "shop", b"other", Disposition.REFUSED, Reason.UNKNOWN_PRODUCT),
    } == changes.inbox
    assert (b"digest", b"other") == (fold.known["shop", "add"], fold.known["shop", "set"])


def test_a_refusal_carries_its_message(fold: Fold) -> None:
    """What the rules say is passed on."""
    command = AdjustStock(cause("set"), "p", Operation.SET, 1, expected_version=9)
    (verdict,) = fold.batch(event(command)).verdicts
    assert Verdict(REFUSED, Reason.STALE_VERSION, "expected version 9, found 1") == verdict


def test_a_duplicate_by_content_is_received(fold: Fold) -> None:
    """An event that says what another said before moves nothing, and its own repeat is known."""
    fold.batch(created("o"))
    again = created("o", event_id="again")
    changes = fold.batch(again, again)
    assert [Verdict(DUPLICATE), Verdict(DUPLICATE)] == changes.verdicts
    assert Disposition.DUPLICATE is changes.inbox["shop", "again"].outcome


def test_a_conflicting_event_is_dead_lettered_and_not_received(fold: Fold) -> None:
    """An order created again with other lines; its redrive is decided anew."""
    fold.batch(created("o"))
    other = created("o", 2, event_id="other")
    changes = fold.batch(other, other)
    message = "order o was created before with other lines"
    assert [Verdict(DEAD_LETTERED, DeadLetterReason.CONFLICT, message)] * 2 == changes.verdicts
    dead_letter = build_dead_letter(
        other.record,
        DeadLetterReason.CONFLICT,
        message,
        NOW,
        event_id="other",
        event_type="type-other",
        source="shop",
    )
    assert Changes(verdicts=changes.verdicts, dead_letters=[dead_letter, dead_letter]) == changes
    assert ("shop", "other") not in fold.known


def test_a_conflicting_request_is_not_received(fold: Fold) -> None:
    """The caller gets the verdict, and can try again."""
    fold.batch(created("o"))
    request = command_task(CreateOrder(cause("other"), "o", {"p": 2}))
    message = "order o was created before with other lines"
    verdict = Verdict(CONFLICT, DeadLetterReason.CONFLICT, message)
    assert Changes(verdicts=[verdict, verdict]) == fold.batch(request, request)
    assert ("shop", "other") not in fold.known


@pytest.mark.parametrize(
    "early",
    [
        paid(),
        event(CancelOrder(cause("cancelled"), "o")),
        event(RefundOrder(cause("refunded"), "o", "r", {"p": 1})),
    ],
    ids=["payment", "cancellation", "refund"],
)
def test_an_early_fact_is_parked_with_its_record(fold: Fold, early: EventTask) -> None:
    """Until the deadline of the policy, from now on."""
    changes = fold.batch(early, early)
    event_id = early.command.cause.event_id
    assert [Verdict(PARKED), Verdict(DUPLICATE)] == changes.verdicts
    parked = ParkedEvent("shop", event_id, "o", early.event_type, early.record, NOW, NOW + timedelta(hours=7))
    assert {("shop", event_id): parked} == changes.parked
    assert Disposition.PARKED is changes.inbox["shop", event_id].outcome
    assert {"o"} == changes.orders


def test_a_fact_parked_and_resolved_in_one_batch_is_never_written_as_parked(fold: Fold) -> None:
    """The inbox row that is written has the outcome already."""
    changes = fold.batch(paid(), created("o", 3))
    assert ({}, {}) == (changes.parked, changes.resolved)
    row = InboxRow("paid-o", "shop", b"1", Disposition.APPLIED, None)
    assert row == changes.inbox["shop", "paid-o"]
    assert (7, 0) == fold.stock()


def test_a_resolved_fact_has_its_own_reason(fold: Fold) -> None:
    """A partial cancellation of more than was ordered waits, and is refused when its order comes."""
    part = event(CancelOrder(cause("part"), "o", {"p": 9}))
    changes = fold.batch(part, created("o", 3))
    assert [PARKED, APPLIED] == dispositions(changes)
    refused = InboxRow("part", "shop", b"1", Disposition.REFUSED, Reason.CANCELLATION_EXCEEDS_ORDER)
    assert refused == changes.inbox["shop", "part"]


def test_a_fact_of_an_earlier_batch_is_resolved_by_its_key(fold: Fold) -> None:
    """Its parked event and its inbox row are in the tables."""
    early = paid()
    fold.batch(early)
    changes = fold.batch(created("o", 3))
    assert {("shop", "paid-o"): ResolvedFact(early.command.cause, Disposition.APPLIED)} == changes.resolved
    assert {("shop", "created-o")} == changes.inbox.keys()
    assert set() == changes.forgotten


def test_a_request_cannot_wait() -> None:
    """There is no record that could be kept for a dead letter; to ask for it is a bug of the caller."""
    with pytest.raises(AssertionError, match=r"^only an event from Kafka can wait"):
        Fold().batch(command_task(PayOrder(cause("paid"), "unheard-of")))


def test_a_fact_past_its_deadline_is_dead_lettered_and_forgotten(fold: Fold) -> None:
    """Its record becomes a dead letter, and its id is forgotten so that a redrive is not a duplicate."""
    early = paid()
    fold.batch(early)
    task = DeadlineTask(ForgetFact("o", "shop", "paid-o"), early.record, "payment.succeeded")
    changes = fold.batch(task)
    message = "waited for order o until its deadline; the order never came or was never paid"
    assert [Verdict(DEAD_LETTERED, DeadLetterReason.DEADLINE_EXPIRED, message)] == changes.verdicts
    assert [
        build_dead_letter(
            early.record,
            DeadLetterReason.DEADLINE_EXPIRED,
            message,
            NOW,
            event_id="paid-o",
            event_type="payment.succeeded",
            source="shop",
        )
    ] == changes.dead_letters
    assert {("shop", "paid-o")} == changes.forgotten
    assert ({}, {"o"}) == (changes.inbox, changes.orders)
    assert () == fold.state.orders["o"].waiting


def test_a_deadline_of_a_fact_that_waits_no_longer_is_a_duplicate(fold: Fold) -> None:
    """Its order came, or another sweeper was here."""
    early = paid()
    fold.batch(early, created("o"))
    task = DeadlineTask(ForgetFact("o", "shop", "paid-o"), early.record, "payment.succeeded")
    assert Changes(verdicts=[Verdict(DUPLICATE)]) == fold.batch(task)


def test_a_dead_letter_is_stored_as_it_is(fold: Fold) -> None:
    """Its verdict repeats its reason and message."""
    dead_letter = build_dead_letter(record("x"), DeadLetterReason.DECODE_ERROR, "not JSON", NOW)
    changes = fold.batch(DeadLetterTask(dead_letter))
    verdict = Verdict(DEAD_LETTERED, DeadLetterReason.DECODE_ERROR, "not JSON")
    assert Changes(verdicts=[verdict], dead_letters=[dead_letter]) == changes


def test_the_fold_decides_each_task_on_what_those_before_left(fold: Fold) -> None:
    """The order of the verdicts is that of the tasks, and the outbox has one row an outcome."""
    changes = fold.batch(created("a", 6), created("b", 6), adjusted(2), created("c", 6))
    assert [APPLIED, REFUSED, APPLIED, APPLIED] == dispositions(changes)
    kinds = [row.type.removeprefix("inventory.").removeprefix("reservation.") for row in changes.outbox]
    assert ["reserved", "rejected", "reserved", "low_stock"] == kinds
    assert [1, 2, 3] == [entry.sequence - 1 for entry in changes.ledger]


def test_the_key_of_a_cause_is_source_and_id() -> None:
    """In this order, as the tables are asked for it."""
    assert ("shop", "e") == key_of(cause("e"))
