"""What `execute` is given, and what it returns: a batch of tasks, and what became of each."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import NamedTuple

import orjson

from domain.commands import CausedCommand, Expiry, ForgetFact
from domain.model import Cart, Decision, Order, Product, Reason, State
from engine.anchor import Anchor
from storage.answers import Answer
from storage.dead_letters import DeadLetter, DeadLetterReason, StoredRecord


class EventTask(NamedTuple):
    """An event from Kafka: its command, the digest of its content, and the record that carried it.

    The identity is that of the command's cause. A repeat is a duplicate; the same identity with another digest is a
    producer's bug, and the record becomes a dead letter.
    """

    command: CausedCommand
    digest: bytes
    record: StoredRecord
    event_type: str


class CommandTask(NamedTuple):
    """A request by a person or a program, which brings no record; `digest` is that of what it asks for.

    The identity is that of the command's cause, so a request can be tried again. The same identity with another digest
    is a conflict, and nothing is applied. Only events can wait for an order that does not exist yet: a payment,
    cancellation or refund of such an order must not be asked for in this way.
    """

    command: CausedCommand
    digest: bytes


class RequestTask(NamedTuple):
    """A request of a caller that waits for its answer; its time is the database's (`engine.requests`).

    `answer` builds the answer from the decision and the state after it; it is a pure function. It is stored in the same
    transaction, so a repeat of the request, wherever it arrives, is given the same bytes.
    """

    command: CausedCommand
    digest: bytes
    answer: Callable[[Decision, State], Answer]


class ExpiryTask(NamedTuple):
    """Release a hold that is due. It needs no identity: a hold expires once."""

    command: Expiry


class DeadlineTask(NamedTuple):
    """End the wait of a fact that is past its deadline; the record that carried it becomes a dead letter."""

    command: ForgetFact
    record: StoredRecord
    event_type: str


class DeadLetterTask(NamedTuple):
    """Store the dead letter of a record that is no valid event."""

    dead_letter: DeadLetter


Task = EventTask | CommandTask | RequestTask | ExpiryTask | DeadlineTask | DeadLetterTask


class TaskDisposition(StrEnum):
    """What became of a task: what became of its command (`domain.model.Disposition`), or `dead_lettered`."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    PARKED = "parked"
    CONFLICT = "conflict"
    DEAD_LETTERED = "dead_lettered"


class Verdict(NamedTuple):
    """What became of a task and why; `reason` is None unless it was refused, in conflict or dead-lettered.

    `answer` is that of a request, the stored one for a repeat.
    """

    disposition: TaskDisposition
    reason: Reason | DeadLetterReason | None = None
    message: str | None = None
    answer: Answer | None = None


class StageSeconds(NamedTuple):
    """How long each stage of a batch took; the sum where it was applied in parts."""

    load: float = 0.0
    decide: float = 0.0
    save: float = 0.0
    commit: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a committed batch did.

    `verdicts` stand in the order of the tasks. `products`, `orders` and `carts` are those that changed, by id, as they
    are now. `expired` counts holds that expired, `outgoing` the events that were put into the outbox. `anchor` is what
    the next batch looks for, None where neither an event nor a dead letter was written.
    """

    verdicts: Sequence[Verdict]
    products: Mapping[str, Product] = field(default_factory=dict)
    orders: Mapping[str, Order] = field(default_factory=dict)
    carts: Mapping[str, Cart] = field(default_factory=dict)
    expired: int = 0
    outgoing: int = 0
    dead_letters: Sequence[DeadLetter] = ()
    seconds: StageSeconds = field(default_factory=StageSeconds)
    anchor: Anchor | None = None

    def followed_by(self, other: "BatchResult") -> "BatchResult":
        """Return the result of both: `other` was applied after this one, so its rows are newer."""
        return BatchResult(
            (*self.verdicts, *other.verdicts),
            {**self.products, **other.products},
            {**self.orders, **other.orders},
            {**self.carts, **other.carts},
            self.expired + other.expired,
            self.outgoing + other.outgoing,
            (*self.dead_letters, *other.dead_letters),
            StageSeconds(*map(sum, zip(self.seconds, other.seconds, strict=True))),
            other.anchor or self.anchor,
        )


def command_task(command: CausedCommand) -> CommandTask:
    """Return the task of a request, with the digest of everything it says except its cause."""
    content = {each.name: getattr(command, each.name) for each in fields(command) if each.name != "cause"}
    encoded = orjson.dumps([type(command).__name__, content], option=orjson.OPT_SORT_KEYS)
    return CommandTask(command, hashlib.blake2b(encoded, digest_size=16).digest())
