"""Classifies Kafka errors: what a running worker does about each class. The checks at the start refuse all of them."""

from enum import StrEnum

from aiokafka import errors


class KafkaRemedy(StrEnum):
    """What to do about an error of the Kafka client."""

    WAIT = "wait"
    """The cluster is away, busy, or refuses us: try again for as long as it takes, and say why."""
    REJOIN = "rejoin"
    """The group has moved on without us: what was not committed is redelivered and suppressed as duplicates."""
    UNDELIVERABLE = "undeliverable"
    """The broker will not take this record, however often it is sent."""
    CRASH = "crash"
    """The client was called wrongly: a bug."""


# The class of an error decides, or the nearest of its base classes that stands here.
_REMEDIES: dict[type[BaseException], KafkaRemedy] = {
    errors.KafkaError: KafkaRemedy.WAIT,
    OSError: KafkaRemedy.WAIT,  # includes ConnectionError and TimeoutError
    errors.CommitFailedError: KafkaRemedy.REJOIN,
    errors.IllegalGenerationError: KafkaRemedy.REJOIN,
    errors.UnknownMemberIdError: KafkaRemedy.REJOIN,
    errors.RebalanceInProgressError: KafkaRemedy.REJOIN,
    errors.MemberIdRequired: KafkaRemedy.REJOIN,
    # The client's word for partitions that were revoked, and for a producer that is being replaced.
    errors.IllegalStateError: KafkaRemedy.REJOIN,
    errors.MessageSizeTooLargeError: KafkaRemedy.UNDELIVERABLE,
    errors.RecordListTooLargeError: KafkaRemedy.UNDELIVERABLE,
    errors.RecordTooLargeError: KafkaRemedy.UNDELIVERABLE,
    errors.InvalidTopicError: KafkaRemedy.UNDELIVERABLE,
    errors.InvalidTimestampError: KafkaRemedy.UNDELIVERABLE,
    errors.CorruptRecordException: KafkaRemedy.UNDELIVERABLE,
    errors.InvalidMessageError: KafkaRemedy.UNDELIVERABLE,
    errors.UnsupportedForMessageFormatError: KafkaRemedy.UNDELIVERABLE,
    errors.PolicyViolationError: KafkaRemedy.UNDELIVERABLE,
    errors.IllegalArgumentError: KafkaRemedy.CRASH,
    errors.KafkaConfigurationError: KafkaRemedy.CRASH,
    errors.InvalidRequiredAcksError: KafkaRemedy.CRASH,
    errors.InvalidRequestError: KafkaRemedy.CRASH,
    errors.NoError: KafkaRemedy.CRASH,
}


def kafka_remedy_of(error: BaseException) -> KafkaRemedy:
    """Return what to do about an error."""
    return next((_REMEDIES[kind] for kind in type(error).__mro__ if kind in _REMEDIES), KafkaRemedy.CRASH)


def is_kafka_trouble(error: BaseException) -> bool:
    """Say whether the error is Kafka's and passes: trying again can succeed."""
    return isinstance(error, errors.KafkaError) and kafka_remedy_of(error) is not KafkaRemedy.CRASH
