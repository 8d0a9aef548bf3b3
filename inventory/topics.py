"""Creates the topics of the contracts in Kafka: in, out, of state, and a dead letter topic for each topic in."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, TopicAlreadyExistsError, for_code

from inventory.errors import OperatorError
from schemas.topics import TOPICS_IN, TOPICS_OUT, TOPICS_STATE, dlq_topic

MIB: Final = 1024 * 1024
# The contract allows 1 MiB. A larger record must reach the worker to become a dead letter that names its size. The dead
# letter is a few KiB larger than the record.
INCOMING_MAX_BYTES: Final = 4 * MIB
# The outcome of an event with 1,000 lines and long ids is larger than the event: its lines have more fields.
OUTGOING_MAX_BYTES: Final = 2 * MIB
DEAD_LETTER_MAX_BYTES: Final = 8 * MIB
# With three replicas, acks=all waits for two: one broker may fail and no acknowledged record is lost.
COPIES_FOR_TWO_ACKNOWLEDGEMENTS: Final = 3
ATTEMPTS: Final = 3
BACKOFF_SECONDS: Final = 0.5
CONFIGURATION_TIMEOUT_SECONDS: Final = 5.0


# Opens an admin client; raises OperatorError if Kafka cannot be used, also inside the block.
OpenAdmin = Callable[[], AbstractAsyncContextManager[AIOKafkaAdminClient]]


@dataclass(frozen=True, slots=True)
class TopicLayout:
    """How the topics are created."""

    prefix: str
    partitions: int
    replication_factor: int
    dead_letter_retention: timedelta
    incoming_retention: timedelta


class NoAdminInterfaceError(OperatorError):
    """The broker has no admin API: it is still starting, or it creates topics when they are first used."""


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What became of one topic."""

    topic: str
    outcome: Literal["created", "exists"]
    partitions: int


def wanted_topics(layout: TopicLayout) -> list[NewTopic]:
    """Return every topic of the contracts with its configuration."""
    common: dict[str, str] = {}
    if layout.replication_factor >= COPIES_FOR_TWO_ACKNOWLEDGEMENTS:
        common["min.insync.replicas"] = "2"
    dead_letter = {
        "max.message.bytes": str(DEAD_LETTER_MAX_BYTES),
        "retention.ms": _milliseconds(layout.dead_letter_retention),
    }
    # No longer than the inbox remembers: a group that reads a topic from its beginning would apply older events again.
    incoming = {
        "max.message.bytes": str(INCOMING_MAX_BYTES),
        "retention.ms": _milliseconds(layout.incoming_retention),
    }
    state = {"max.message.bytes": str(OUTGOING_MAX_BYTES), "cleanup.policy": "compact"}
    configurations: dict[str, dict[str, str]] = {
        **dict.fromkeys(TOPICS_IN, incoming),
        **{topic: {"max.message.bytes": str(OUTGOING_MAX_BYTES)} for topic in TOPICS_OUT},
        **dict.fromkeys(TOPICS_STATE, state),
        **{dlq_topic(topic): dead_letter for topic in TOPICS_IN},
    }
    return [
        NewTopic(
            name=layout.prefix + topic,
            num_partitions=layout.partitions,
            replication_factor=layout.replication_factor,
            topic_configs={**common, **configuration},
        )
        for topic, configuration in configurations.items()
    ]


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))


async def create_topics(open_admin: OpenAdmin, layout: TopicLayout) -> list[TopicReport]:
    """Create missing topics and leave the others unchanged; raises OperatorError if Kafka cannot or refuses."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with open_admin() as client:
                return await _create_missing(client, wanted_topics(layout))
        except OperatorError:
            if attempt == ATTEMPTS:
                raise
        await asyncio.sleep(BACKOFF_SECONDS * attempt)
    raise AssertionError  # the last attempt returns or raises


def partition_warning(layout: TopicLayout, reports: Iterable[TopicReport]) -> str | None:
    """Return what is wrong with the partition counts of the topics in and what it costs, or None."""
    incoming = {layout.prefix + topic for topic in TOPICS_IN}
    counts = {report.topic: report.partitions for report in reports if report.topic in incoming}
    distinct = set(counts.values())
    if len(distinct) > 1:
        listed = ", ".join(f"{topic} {count}" for topic, count in counts.items())
        return (
            f"the topics in have unequal partition counts ({listed}): results stay correct, but an order's events "
            "are then handled by different workers, which is slower"
        )
    if distinct != {layout.partitions}:
        return (
            f"the topics in have {distinct.pop()} partitions each, INVENTORY_KAFKA_TOPIC_PARTITIONS says "
            f"{layout.partitions}; existing topics are not changed"
        )
    return None


async def size_warning(client: AIOKafkaAdminClient, prefix: str) -> str | None:
    """Return which topics out take smaller records than the worker may write, and what to do; None if all is well.

    None also where the broker does not say: it has no admin API, or does not let us read configurations.
    """
    needed = {prefix + topic: OUTGOING_MAX_BYTES for topic in TOPICS_OUT}
    needed |= {prefix + dlq_topic(topic): DEAD_LETTER_MAX_BYTES for topic in TOPICS_IN}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, configs={"max.message.bytes": None}) for name in needed]
    try:
        async with asyncio.timeout(CONFIGURATION_TIMEOUT_SECONDS):
            responses: Any = await client.describe_configs(resources)
    except (KafkaError, TimeoutError, AttributeError):
        # AttributeError: as in `_ask_to_create`.
        return None
    small = []
    for response in responses:
        for code, _, _, name, entries in response.resources:
            limits = [int(entry[1]) for entry in entries if code == 0 and entry[0] == "max.message.bytes"]
            small += [f"{name} {limit:,}" for limit in limits if limit < needed[name]]
    if not small:
        return None
    return (
        f"max.message.bytes is smaller than what the worker may write on {', '.join(sorted(small))} (wanted "
        f"{OUTGOING_MAX_BYTES:,}, dead letters {DEAD_LETTER_MAX_BYTES:,}): an event above it is never published; "
        "raise it with kafka-configs.sh, then `inventory outbox retry`"
    )


async def missing_topics(client: AIOKafkaAdminClient, prefix: str) -> list[str]:
    """Return the topics in that must be created before anything is published.

    Empty for a broker without an admin API, such as librdkafka's mock cluster, which creates topics when they are used.
    """
    existing = await existing_partitions(client)
    missing = [name for topic in TOPICS_IN if (name := prefix + topic) not in existing]
    try:
        if missing:
            await _ask_to_create(client, [])
    except NoAdminInterfaceError:
        return []
    return missing


async def existing_partitions(client: AIOKafkaAdminClient) -> Mapping[str, int]:
    """Return the partition count of every topic in the cluster, creating none."""
    # Ask for all topics: many brokers create a missing topic that a metadata request names.
    return {topic["topic"]: len(topic["partitions"]) for topic in await client.describe_topics()}


async def _create_missing(client: AIOKafkaAdminClient, wanted: list[NewTopic]) -> list[TopicReport]:
    existing = await existing_partitions(client)
    missing = [topic for topic in wanted if topic.name not in existing]
    if missing:
        for topic, code, message in await _ask_to_create(client, missing):
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                raise OperatorError(f"Kafka did not create {topic}: {message or error.__name__}")
    return [
        TopicReport(topic.name, "exists", existing[topic.name])
        if topic.name in existing
        else TopicReport(topic.name, "created", topic.num_partitions)
        for topic in wanted
    ]


async def _ask_to_create(client: AIOKafkaAdminClient, topics: list[NewTopic]) -> list[tuple[str, int, str | None]]:
    try:
        response: Any = await client.create_topics(topics)
    except (IncompatibleBrokerVersion, AttributeError) as error:
        # AttributeError: aiokafka reads the controller's address even if the cluster names no controller.
        raise NoAdminInterfaceError(
            "Kafka cannot create topics on request: either it is still starting, "
            "or it is a test broker that creates topics when they are used"
        ) from error
    return list(response.topic_errors)
