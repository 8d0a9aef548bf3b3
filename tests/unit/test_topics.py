"""The topics of the contracts are made with what their promises need."""

from datetime import timedelta
from typing import Any

import orjson
import pytest
from aiokafka.admin.config_resource import ConfigResource
from aiokafka.errors import IncompatibleBrokerVersion

from inventory.kafka import topic_layout
from inventory.settings import Settings
from inventory.topic_retention import retention_warning
from inventory.topics import TopicReport, partition_warning, size_warning, wanted_topics
from schemas.limits import MAX_RECORD_BYTES
from schemas.topics import LEVELS, RESERVATIONS, TOPICS_IN, TOPICS_OUT, TOPICS_STATE, dlq_topic

# Four bytes in UTF-8: an id has at most 256 characters, not bytes.
TEA = "\N{TEACUP WITHOUT HANDLE}"


def test_every_topic_of_the_contracts_is_wanted() -> None:
    """Those in, out and of state, and a dead letter topic per topic in, each with the prefix."""
    names = [topic.name for topic in wanted_topics(topic_layout(Settings(kafka_topic_prefix="shop.")))]
    assert sorted(names) == sorted(
        f"shop.{name}" for name in [*TOPICS_IN, *TOPICS_OUT, *TOPICS_STATE, *map(dlq_topic, TOPICS_IN)]
    )
    assert len(names) == 19


def test_only_topics_of_state_are_compacted() -> None:
    """An event that Kafka compacted away would be lost to its readers."""
    policies = {
        topic.name: topic.topic_configs.get("cleanup.policy") for topic in wanted_topics(topic_layout(Settings()))
    }
    assert "compact" == policies.pop(LEVELS)
    assert {None} == set(policies.values())


def test_all_topics_have_the_same_partitions() -> None:
    """Partition i of every topic is assigned to one worker, which sees all events of an order."""
    assert {topic.num_partitions for topic in wanted_topics(topic_layout(Settings(kafka_topic_partitions=12)))} == {12}


def test_a_dead_letter_fits_whatever_came_in() -> None:
    """Records over the contract's 1 MiB come in, and go out again with their added headers."""
    limits = {
        topic.name: int(topic.topic_configs.get("max.message.bytes", 0))
        for topic in wanted_topics(topic_layout(Settings()))
    }
    assert all(2 * 1024 * 1024 < limits[name] < limits[dlq_topic(name)] for name in TOPICS_IN)


def test_the_outcome_of_the_largest_event_fits() -> None:
    """A refusal has more fields per line than the order; a broker that refused it would block its key."""
    lines = [{"product_id": f"{number:04}{TEA * 252}", "quantity": 1} for number in range(1000)]
    order = orjson.dumps({"event_id": "e", "occurred_at": "2026-01-01T00:00:00Z", "order_id": "o", "items": lines})
    outcome_lines = [
        {"product_id": line["product_id"], "requested": 1_000_000, "available": 0, "reason": "insufficient_stock"}
        for line in lines
    ]
    limits = {
        topic.name: int(topic.topic_configs["max.message.bytes"]) for topic in wanted_topics(topic_layout(Settings()))
    }
    assert len(order) < MAX_RECORD_BYTES < len(orjson.dumps(outcome_lines)) < limits[RESERVATIONS] - 4096


def test_dead_letters_are_kept_for_the_set_time() -> None:
    """Thirty days by default, in milliseconds as Kafka counts."""
    topic = next(topic for topic in wanted_topics(topic_layout(Settings())) if topic.name == "order.created.dlq")
    assert topic.topic_configs["retention.ms"] == "2592000000"


def test_topics_in_are_kept_for_as_long_as_the_inbox_remembers() -> None:
    """An older record that is read again would be applied again, since its id is forgotten."""
    kept = {
        topic.name: topic.topic_configs.get("retention.ms")
        for topic in wanted_topics(topic_layout(Settings(inbox_retention="2d", parked_event_ttl="1d")))
    }
    assert {"172800000"} == {kept[name] for name in TOPICS_IN}
    assert {None} == {kept[name] for name in TOPICS_OUT}


@pytest.mark.parametrize(("copies", "acknowledgements"), [(1, None), (2, None), (3, "2")])
def test_three_copies_need_two_acknowledgements(copies: int, acknowledgements: str | None) -> None:
    """With fewer replicas, requiring two would stop publishing at the first lost broker."""
    topics = wanted_topics(topic_layout(Settings(kafka_replication_factor=copies)))
    assert {topic.topic_configs.get("min.insync.replicas") for topic in topics} == {acknowledgements}


def _reports(**partitions: int) -> list[TopicReport]:
    counts = {**dict.fromkeys(TOPICS_IN, 6), **partitions}
    return [TopicReport(name, "exists", count) for name, count in counts.items()]


def test_equal_partitions_as_set_need_no_warning() -> None:
    """Topics out may differ; nothing depends on their counts."""
    assert (
        partition_warning(topic_layout(Settings()), [*_reports(), TopicReport("inventory.low_stock", "exists", 1)])
        is None
    )


def test_unequal_partitions_are_warned_of() -> None:
    """The counts are listed and the cost is named."""
    warning = partition_warning(topic_layout(Settings()), _reports(**{"order.created": 3}))
    assert warning is not None
    assert "order.created 3" in warning
    assert "which is slower" in warning


def test_partitions_other_than_the_setting_are_warned_of() -> None:
    """A changed setting does not change topics that exist."""
    warning = partition_warning(topic_layout(Settings(kafka_topic_partitions=12)), _reports())
    assert warning is not None
    assert warning.startswith("the topics in have 6 partitions each, INVENTORY_KAFKA_TOPIC_PARTITIONS says 12")


@pytest.mark.parametrize(
    ("retention_ms", "named"),
    [
        ({"a": 86_400_000, "b": 1}, None),
        ({"a": 86_400_001, "b": 1}, "keeps a (1d1ms) longer"),
        ({"a": 1, "b": -1}, "keeps b (for good) longer"),
    ],
)
def test_topics_that_outlive_the_inbox_are_a_warning(retention_ms: dict[str, int], named: str | None) -> None:
    """As long as the inbox remembers is allowed; longer, or for good, is not."""
    warning = retention_warning(retention_ms, timedelta(days=1))
    assert (named is None) if warning is None else (named is not None and named in warning)


class _Limits:
    """An admin client of a cluster whose topics have these limits; all others are missing."""

    def __init__(self, limits: dict[str, int]) -> None:
        self._limits = limits

    async def describe_configs(self, resources: list[ConfigResource]) -> list[Any]:
        """Answer as Kafka does: code 3 for a missing topic."""
        if not self._limits:
            raise IncompatibleBrokerVersion("no admin API")
        return [_Response([self._described(resource.name)]) for resource in resources]

    def _described(self, name: str) -> tuple[int, str, int, str, list[tuple[object, ...]]]:
        limit = self._limits.get(name)
        entry: tuple[object, ...] = ("max.message.bytes", str(limit), False, 1, False, [])
        return (3, "unknown", 2, name, []) if limit is None else (0, "", 2, name, [entry])


class _Response:
    def __init__(self, resources: list[Any]) -> None:
        self.resources = resources


async def test_a_topic_with_a_low_limit_is_warned_of() -> None:
    """The line names each topic out and each dead letter topic whose limit is below what the worker may write."""
    limits = {
        "s.inventory.reservations": 1_048_588,
        "s.inventory.low_stock": 2_097_152,
        "s.order.created.dlq": 4_194_304,
    }
    warning = await size_warning(_Limits(limits), "s.")
    assert warning is not None
    assert "on s.inventory.reservations 1,048,588, s.order.created.dlq 4,194,304 (" in warning
    assert "low_stock" not in warning


@pytest.mark.parametrize("limits", [{}, {"s.inventory.reservations": 2_097_152}])
async def test_enough_room_or_no_answer_is_no_warning(limits: dict[str, int]) -> None:
    """A broker without an admin API cannot be asked."""
    assert await size_warning(_Limits(limits), "s.") is None
