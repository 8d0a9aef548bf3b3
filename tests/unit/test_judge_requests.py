"""The fold of a batch: requests, their answers, and repeats that are given the same answer."""

from datetime import timedelta

import pytest

from domain.commands import CreateOrder, PayOrder, Request, UpdateCart
from domain.model import Cause, Disposition, Reason
from engine.judge import Changes, judge
from engine.tasks import Verdict
from storage.answers import Answer
from storage.dead_letters import DeadLetterReason
from storage.save import InboxRow
from tests.unit.domain_cases import at
from tests.unit.judging import (
    ADD,
    ANSWER,
    APPLIED,
    CONFLICT,
    DUPLICATE,
    KEY,
    NOW,
    POLICY,
    REFUSED,
    Fold,
    adjusted,
    cause,
    created,
    event,
    request,
)


def test_a_request_is_answered_and_received(fold: Fold) -> None:
    """The answer is made of the decision and the state after it, and stored beside the inbox row."""
    changes = fold.batch(request(ADD, b"digest"))
    assert [Verdict(APPLIED, answer=ANSWER)] == changes.verdicts
    assert {KEY: ANSWER} == changes.answers
    assert {KEY: InboxRow("add", "api", b"digest", Disposition.APPLIED, None)} == changes.inbox
    assert b"digest" == fold.known[KEY]


def test_a_request_is_decided_at_the_time_of_the_batch(fold: Fold) -> None:
    """Whatever its own clock says."""
    [entry] = fold.batch(request(ADD)).ledger
    assert Cause("api", "add", NOW) == entry.cause


def test_a_request_is_later_than_the_cart_that_it_finds(fold: Fold) -> None:
    """A producer's clock may be a little ahead of the database's."""
    fold.batch(event(UpdateCart(cause("cart", 500.5), "c", {"p": 1})))
    fold.batch(request(UpdateCart(Cause("api", "cart", at(0)), "c", {"p": 2})))
    assert at(500.5) + timedelta(microseconds=1) == fold.state.carts["c"].as_of


def test_a_repeated_request_is_given_its_answer_again(fold: Fold) -> None:
    """From this batch, or from the store; it is not made anew, because the stock has changed since."""
    repeat = Verdict(DUPLICATE, answer=ANSWER)
    changes = fold.batch(request(ADD), adjusted(1, event_id="other"), request(ADD))
    assert [Verdict(APPLIED, answer=ANSWER), Verdict(APPLIED), repeat] == changes.verdicts
    later = judge([request(ADD)], fold.state, fold.known, None, POLICY, NOW, {KEY: ANSWER})
    assert Changes(verdicts=[repeat]) == later


def test_a_repeat_whose_answer_is_gone_has_none(fold: Fold) -> None:
    """Answers are kept for a shorter time than ids."""
    fold.batch(request(ADD))
    assert [Verdict(DUPLICATE)] == fold.batch(request(ADD)).verdicts


def test_a_request_with_the_id_of_another_is_a_conflict(fold: Fold) -> None:
    """It is not applied and gets no answer of the other."""
    fold.batch(request(ADD))
    message = "another event with this id and source was received before, with other content"
    changes = fold.batch(request(ADD, b"2"))
    assert Changes(verdicts=[Verdict(CONFLICT, DeadLetterReason.ID_REUSED, message)]) == changes


def test_a_request_in_conflict_is_answered_and_not_received(fold: Fold) -> None:
    """It may be sent again."""
    fold.batch(created("o"))
    changes = fold.batch(request(CreateOrder(Cause("api", "other", at(0)), "o", {"p": 2})))
    message = "order o was created before with other lines"
    verdict = Verdict(CONFLICT, None, message, Answer(200, (), b"conflict: 10, 1"))
    assert Changes(verdicts=[verdict]) == changes
    assert ("api", "other") not in fold.known


def test_a_request_that_would_wait_is_a_bug(fold: Fold) -> None:
    """`Request` refuses what does not exist; the command by itself would wait."""
    with pytest.raises(AssertionError, match=r"^a request cannot wait for its order: its sender waits for the answer$"):
        fold.batch(request(PayOrder(Cause("api", "paid", at(0)), "unheard-of")))
    [verdict] = fold.batch(request(Request(PayOrder(Cause("api", "paid", at(0)), "unheard-of")))).verdicts
    assert (REFUSED, Reason.UNKNOWN_ORDER) == (verdict.disposition, verdict.reason)
