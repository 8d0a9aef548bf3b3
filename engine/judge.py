"""The fold: decides the tasks of a batch in order, each on the state that those before it left.

Pure: no connection, no clock, no await. It changes the state and the known events that it is given, and collects what
there is to write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never

from domain.commands import CancelOrder, Command, PayOrder, RefundOrder
from domain.decide import step
from domain.due import DueHold, DueHolds
from domain.model import Cause, Decision, Disposition, LedgerEntry, Policy, ResolvedFact, State
from engine.dead_letters import build_dead_letter
from engine.outbox_rows import outbox_row
from engine.requests import stamped
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
)
from storage.answers import Answer
from storage.dead_letters import DeadLetter, DeadLetterReason, ParkedEvent
from storage.load import EventKey
from storage.save import InboxRow, OutboxRow

_DISPOSITIONS = {disposition: TaskDisposition(disposition.value) for disposition in Disposition}
_APPLIED = Verdict(TaskDisposition.APPLIED)
_DUPLICATE = Verdict(TaskDisposition.DUPLICATE)
_REUSED_ID = "another event with this id and source was received before, with other content"


@dataclass(slots=True)
class Changes:
    """What a batch decided: a verdict for each task, and the rows to write.

    `products`, `orders` and `carts` are the ids of those that changed. `resolved` are parked events of earlier batches
    whose fact has been judged, `forgotten` those whose deadline has passed. `short` are the products of which a
    command wanted more than was available before holds expired in its favour, `holds` every hold that the batch made,
    whether or not it still stands.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    products: set[str] = field(default_factory=set)
    orders: set[str] = field(default_factory=set)
    carts: set[str] = field(default_factory=set)
    ledger: list[LedgerEntry] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    inbox: dict[EventKey, InboxRow] = field(default_factory=dict)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    parked: dict[EventKey, ParkedEvent] = field(default_factory=dict)
    resolved: dict[EventKey, ResolvedFact] = field(default_factory=dict)
    forgotten: set[EventKey] = field(default_factory=set)
    answers: dict[EventKey, Answer] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)
    holds: set[DueHold] = field(default_factory=set)
    expired: int = 0


def judge(  # noqa: PLR0913, PLR0917 - what a batch is decided on
    tasks: Sequence[Task],
    state: State,
    known: dict[EventKey, bytes],
    due: DueHolds | None,
    policy: Policy,
    now: datetime,
    answers: Mapping[EventKey, Answer] | None = None,
) -> Changes:
    """Decide the tasks in order and return what changed.

    `known` are the digests of events that were received before, `due` the holds that may expire where stock is short.
    `state`, `known` and `due` are brought up to date in place. `answers` are those that repeated requests were given;
    `now` is the time of requests as well.
    """
    fold = _Fold(state, known, due, policy, now, answers or {})
    for task in tasks:
        fold.changes.verdicts.append(fold.judge(task))
    return fold.changes


def key_of(cause: Cause) -> EventKey:
    """Return the identity of the event behind a change."""
    return (cause.source, cause.event_id)


class _Fold:
    """A batch that is being decided."""

    __slots__ = ("_answers", "_due", "_known", "_now", "_policy", "_state", "changes")

    def __init__(
        self,
        state: State,
        known: dict[EventKey, bytes],
        due: DueHolds | None,
        policy: Policy,
        now: datetime,
        answers: Mapping[EventKey, Answer],
    ) -> None:
        self._state = state
        self._known = known
        self._due = due
        self._policy = policy
        self._now = now
        self._answers = answers
        self.changes = Changes()

    def judge(self, task: Task) -> Verdict:
        match task:
            case EventTask():
                return self._judge_event(task)
            case CommandTask():
                return self._judge_command(task)
            case RequestTask():
                return self._judge_request(task)
            case ExpiryTask():
                return self._judge_expiry(task)
            case DeadlineTask():
                return self._judge_deadline(task)
            case DeadLetterTask():
                dead_letter = task.dead_letter
                self.changes.dead_letters.append(dead_letter)
                return Verdict(TaskDisposition.DEAD_LETTERED, dead_letter.reason, dead_letter.message)
            case _:
                assert_never(task)

    def _judge_event(self, task: EventTask) -> Verdict:
        """Decide an event, unless it was received before; what is wrong with it makes its record a dead letter."""
        key = key_of(task.command.cause)
        known = self._known.get(key)
        if known is not None:
            return (
                _DUPLICATE if known == task.digest else self._dead_letter(task, DeadLetterReason.ID_REUSED, _REUSED_ID)
            )
        decision = self._decide(task.command)
        if decision.disposition is Disposition.CONFLICT:
            # The id stays out of the inbox, so that a redrive of the dead letter is decided anew.
            return self._dead_letter(task, DeadLetterReason.CONFLICT, decision.message or "")
        self._receive(key, task.digest, decision)
        if decision.disposition is Disposition.PARKED:
            self._park(task, key)
        return _verdict(decision)

    def _judge_command(self, task: CommandTask) -> Verdict:
        """Decide a request, unless it is known; a conflict is returned to the caller and makes no dead letter."""
        key = key_of(task.command.cause)
        known = self._known.get(key)
        if known is not None:
            if known == task.digest:
                return _DUPLICATE
            return Verdict(TaskDisposition.CONFLICT, DeadLetterReason.ID_REUSED, _REUSED_ID)
        decision = self._decide(task.command)
        if decision.disposition is Disposition.CONFLICT:
            return Verdict(TaskDisposition.CONFLICT, DeadLetterReason.CONFLICT, decision.message)
        if decision.disposition is Disposition.PARKED:
            raise AssertionError("only an event from Kafka can wait for its order: its record is kept meanwhile")
        self._receive(key, task.digest, decision)
        return _verdict(decision)

    def _judge_request(self, task: RequestTask) -> Verdict:
        """Decide a request and answer it; a repeat is given the answer again, from the store or from this batch."""
        key = key_of(task.command.cause)
        known = self._known.get(key)
        if known is not None:
            if known != task.digest:
                return Verdict(TaskDisposition.CONFLICT, DeadLetterReason.ID_REUSED, _REUSED_ID)
            return _DUPLICATE._replace(answer=self.changes.answers.get(key) or self._answers.get(key))
        decision = self._decide(stamped(task.command, self._state, self._now))
        if decision.disposition is Disposition.PARKED:
            raise AssertionError("a request cannot wait for its order: its sender waits for the answer")
        answer = task.answer(decision, self._state)
        if decision.disposition is not Disposition.CONFLICT:
            self._receive(key, task.digest, decision)
            self.changes.answers[key] = answer
        return _verdict(decision)._replace(answer=answer)

    def _judge_expiry(self, task: ExpiryTask) -> Verdict:
        decision = self._decide(task.command)
        if decision.disposition is Disposition.APPLIED:
            self.changes.expired += 1
        return _verdict(decision)

    def _judge_deadline(self, task: DeadlineTask) -> Verdict:
        """Dead-letter an event whose fact still waits, and forget that it was received."""
        command = task.command
        decision = self._decide(command)
        if decision.disposition is not Disposition.APPLIED:
            return _verdict(decision)
        message = f"waited for order {command.order_id} until its deadline; the order never came or was never paid"
        reason = DeadLetterReason.DEADLINE_EXPIRED
        self.changes.dead_letters.append(
            build_dead_letter(
                task.record,
                reason,
                message,
                self._now,
                event_id=command.event_id,
                event_type=task.event_type,
                source=command.source,
            )
        )
        self.changes.forgotten.add((command.source, command.event_id))
        return Verdict(TaskDisposition.DEAD_LETTERED, reason, message)

    def _decide(self, command: Command) -> Decision:
        """Run the rules and collect what they changed; return the command's own decision.

        Holds that are due may expire first, in favour of the command.
        """
        decision, expiries, short = step(self._state, command, self._policy, self._due)
        for expiry in expiries:
            self._collect(expiry)
        self.changes.expired += len(expiries)
        self._collect(decision)
        self.changes.short.update(short)
        return decision

    def _collect(self, decision: Decision) -> None:
        changes = self.changes
        changes.products.update(decision.products)
        order, cart = decision.order, decision.cart
        if order is not None:
            changes.orders.add(order.order_id)
            if order.expires_at is not None:
                changes.holds.add(DueHold(order.expires_at, "order", order.order_id))
        if cart is not None:
            changes.carts.add(cart.cart_id)
            if cart.expires_at is not None:
                changes.holds.add(DueHold(cart.expires_at, "cart", cart.cart_id))
        changes.ledger.extend(decision.entries)
        for outcome in decision.outcomes:
            changes.outbox.append(outbox_row(outcome))
        for resolved in decision.resolved:
            self._resolve(resolved)

    def _receive(self, key: EventKey, digest: bytes, decision: Decision) -> None:
        """Put an event into the inbox, so that a repeat is known from now on."""
        self._known[key] = digest
        self.changes.inbox[key] = InboxRow(key[1], key[0], digest, decision.disposition, decision.reason)

    def _park(self, task: EventTask, key: EventKey) -> None:
        """Keep the record of a fact that waits, for the dead letter that it becomes if its order never comes."""
        command = task.command
        if not isinstance(command, PayOrder | CancelOrder | RefundOrder):
            raise AssertionError("only payments, cancellations and refunds can wait for their order")  # noqa: TRY004 - a bug
        deadline = self._now + self._policy.parked_event_ttl
        self.changes.parked[key] = ParkedEvent(
            key[0], key[1], command.order_id, task.event_type, task.record, self._now, deadline
        )

    def _resolve(self, resolved: ResolvedFact) -> None:
        """Record what became of a fact that waited: since this batch, or since an earlier one."""
        key = key_of(resolved.cause)
        if self.changes.parked.pop(key, None) is None:
            self.changes.resolved[key] = resolved
        else:
            received = self.changes.inbox[key]
            self.changes.inbox[key] = received._replace(outcome=resolved.disposition, reason=resolved.reason)

    def _dead_letter(self, task: EventTask, reason: DeadLetterReason, message: str) -> Verdict:
        """Make the record of a valid event a dead letter."""
        cause = task.command.cause
        self.changes.dead_letters.append(
            build_dead_letter(
                task.record,
                reason,
                message,
                self._now,
                event_id=cause.event_id,
                event_type=task.event_type,
                source=cause.source,
            )
        )
        return Verdict(TaskDisposition.DEAD_LETTERED, reason, message)


def _verdict(decision: Decision) -> Verdict:
    if decision.disposition is Disposition.APPLIED:
        return _APPLIED
    return Verdict(_DISPOSITIONS[decision.disposition], decision.reason, decision.message)
