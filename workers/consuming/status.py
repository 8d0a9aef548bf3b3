"""The consumer's state at one moment, as liveness and readiness judge it."""

from typing import NamedTuple

from aiokafka import TopicPartition


class ConsumerStatus(NamedTuple):
    """What the consumer is doing; ages are in seconds."""

    assigned: frozenset[TopicPartition]
    # How long the group has not said which partitions are ours; None once it has.
    joining_seconds: float | None
    # Longer than any rebalance takes: whoever waits this long for partitions will not get any (aiokafka #1154).
    joining_limit_seconds: float
    # Why the flood breaker paused consumption; None while it has not.
    paused_because: str | None
    # Why the database does not accept the batch in flight; None while it does.
    waits_because: str | None
    # How long a fetch has been unanswered; None when none is due.
    poll_age: float | None
    # How long ago a batch was applied or the lag fell.
    progress_age: float
    lag_records: int
