"""The fold of a batch, given/when/then, without a database: verdicts, and the rows that would be written."""

from datetime import datetime, timedelta

import pytest

from domain.commands import (
    AdjustStock,
    CancelOrder,
    CausedCommand,
    CreateOrder,
    CreateProduct,
    ExpireCart,
    ExpireOrder,
    ForgetFact,
    PayOrder,
    RefundOrder,
    Request,
    UpdateCart,
)
from domain.due import DueHold, DueHolds
from domain.model import Cause, Decision, Disposition, Operation, OrderStatus, Policy, Reason, ResolvedFact, State
from engine.dead_letters import build_dead_letter
from engine.judge import Changes, judge, key_of
from engine.tasks import (
    CommandTask,
    DeadLetterTask,
    DeadlineTask,
    EventTask,
    ExpiryTask,
    RequestTask,
    Task,
    TaskDisposition,
    Verdict,
    command_task,
)
from storage.answers import Answer
from storage.dead_letters import DeadLetterReason, ParkedEvent, StoredRecord
from storage.save import InboxRow
from tests.unit.domain_cases import at

APPLIED, DUPLICATE, REFUSED, PARKED, CONFLICT, DEAD_LETTERED = TaskDisposition
NOW = at(500)
POLICY = Policy(parked_event_ttl=timedelta(hours=7))


def cause(event_id: str, minutes: float = 0) -> Cause:
    """Return the cause of an event of the shop."""
    return Cause("shop", event_id, at(minutes))


def record(value: str) -> StoredRecord:
    """Return the record that carried an event."""
    return StoredRecord("a.topic", 3, 14, b"key", value.encode(), (), at(0))


def event(
    command: CreateOrder | PayOrder | CancelOrder | RefundOrder | UpdateCart | CreateProduct | AdjustStock,
    digest: bytes = b"1",
) -> EventTask:
    """Return an event that means `command`."""
    return EventTask(command, digest, record(command.cause.event_id), f"type-{command.cause.event_id}")


def created(order_id: str, quantity: int = 1, minutes: float = 0, *, event_id: str | None = None) -> EventTask:
    """Return an order of product `p`."""
    return event(CreateOrder(cause(event_id or f"created-{order_id}", minutes), order_id, {"p": quantity}))


def paid(order_id: str = "o") -> EventTask:
    """Return an order's payment."""
    return event(PayOrder(cause(f"paid-{order_id}", 1), order_id))


def adjusted(quantity: int, digest: bytes = b"1", event_id: str = "add") -> EventTask:
    """Return an addition to the stock of `p`."""
    return event(AdjustStock(cause(event_id), "p", Operation.ADD, quantity), digest)


class Fold:
    """Batches that are decided one after another, on a shop with 10 units of `p`."""

    def __init__(self) -> None:
        self.state = State({}, {}, {})
        self.known: dict[tuple[str, str], bytes] = {}
        self.batch(event(CreateProduct(cause("new"), "p", 10, 0)))

    def batch(self, *tasks: Task, due_before: datetime | None = None) -> Changes:
        """Decide a batch."""
        due = None if due_before is None else DueHolds(self.state, due_before, dict.fromkeys(self.state.products))
        return judge(tasks, self.state, self.known, due, POLICY, NOW)

    def stock(self) -> tuple[int, int]:
        """Return (on hand, reserved) of `p`."""
        product = self.state.products["p"]
        return product.on_hand, product.reserved


@pytest.fixture
def fold() -> Fold:
    """A shop with 10 units of `p`."""
    return Fold()


def dispositions(changes: Changes) -> list[TaskDisposition]:
    """Return what became of each task."""
    return [verdict.disposition for verdict in changes.verdicts]


# --- identity -----------------------------------------------------------------------------------


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


# --- conflicts ----------------------------------------------------------------------------------


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


# --- waiting facts ------------------------------------------------------------------------------


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


# --- requests -----------------------------------------------------------------------------------


def request(command: CausedCommand, digest: bytes = b"1") -> RequestTask:
    """Return a request that is answered with what was decided and the stock that it left."""

    def answer(decision: Decision, state: State) -> Answer:
        product = state.products["p"]
        return Answer(200, (), f"{decision.disposition}: {product.on_hand}, {product.reserved}".encode())

    return RequestTask(command, digest, answer)


ADD = AdjustStock(Cause("api", "add", at(0)), "p", Operation.ADD, 5)
KEY = ("api", "add")
ANSWER = Answer(200, (), b"applied: 15, 0")


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


# --- expiry -------------------------------------------------------------------------------------


def test_an_expiry_is_counted_once(fold: Fold) -> None:
    """The hold that expires counts; further attempts are duplicates and do not."""
    fold.batch(created("o"))
    expiry = ExpiryTask(ExpireOrder("o", at(60)))
    changes = fold.batch(expiry, expiry, expiry)
    assert [Verdict(APPLIED), Verdict(DUPLICATE), Verdict(DUPLICATE)] == changes.verdicts
    assert (1, {"o"}, {}) == (changes.expired, changes.orders, changes.inbox)
    assert OrderStatus.EXPIRED is fold.state.orders["o"].status


def test_every_expiry_of_a_batch_is_counted(fold: Fold) -> None:
    """Of orders and carts."""
    fold.batch(created("o"), event(UpdateCart(cause("cart"), "c", {"p": 4})))
    assert 2 == fold.batch(ExpiryTask(ExpireOrder("o", at(60))), ExpiryTask(ExpireCart("c", at(60)))).expired


def test_due_holds_expire_in_favour_of_a_shortage(fold: Fold) -> None:
    """They are counted, and what they publish comes before what the command does."""
    fold.batch(created("a", 4), event(UpdateCart(cause("cart"), "c", {"p": 4})))
    changes = fold.batch(created("new", 9), due_before=at(60))
    assert [Verdict(APPLIED)] == changes.verdicts
    assert (2, {"a", "new"}, {"c"}, {"p"}) == (changes.expired, changes.orders, changes.carts, changes.products)
    assert ["expired", "expired", "reserved"] == [
        row.type.rpartition(".")[2] for row in changes.outbox if row.topic == "inventory.reservations"
    ]
    assert ["RELEASE", "RELEASE", "RESERVE"] == [entry.type for entry in changes.ledger]
    assert {"p"} == changes.short


def test_without_a_shortage_due_holds_stand(fold: Fold) -> None:
    """Nothing expires where there is enough for everybody."""
    fold.batch(created("a", 4))
    changes = fold.batch(created("new", 6), due_before=at(60))
    assert (0, {"new"}) == (changes.expired, changes.orders)


def test_a_shortage_is_named(fold: Fold) -> None:
    """The products of which more was wanted than available; due holds on them are looked for."""
    changes = fold.batch(created("o", 11), created("other", 3))
    assert [REFUSED, APPLIED] == dispositions(changes)
    assert {"p"} == changes.short
    assert Reason.INSUFFICIENT_STOCK is changes.verdicts[0].reason


def test_every_hold_that_a_batch_makes_is_named(fold: Fold) -> None:
    """Of orders and carts with their deadlines, also one that ended within the batch."""
    cart = event(UpdateCart(cause("cart", 2), "c", {"p": 1}))
    emptied = event(UpdateCart(cause("emptied", 3), "d", {}))
    changes = fold.batch(created("o"), paid(), created("rejected", 99), cart, emptied)
    assert {DueHold(at(15), "order", "o"), DueHold(at(32), "cart", "c")} == changes.holds
    assert ({"o", "rejected"}, {"c", "d"}) == (changes.orders, changes.carts)


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
