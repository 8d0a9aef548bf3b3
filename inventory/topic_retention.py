"""Compares how long Kafka keeps the topics in with how long the inbox remembers their events."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from inventory.durations import format_duration

UNLIMITED_MS: Final = -1


async def read_retention(client: AIOKafkaAdminClient, topics: Iterable[str]) -> dict[str, int]:
    """Return the retention of these topics in milliseconds, -1 for one that keeps records for good.

    Topics whose configuration the broker does not show are left out.
    """
    wanted = {"retention.ms": None, "cleanup.policy": None}
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic, wanted) for topic in topics]
    found: dict[str, int] = {}
    response: Any
    for response in await client.describe_configs(resources):
        for code, _, _, topic, entries in response.resources:
            values = {entry[0]: entry[1] for entry in entries}
            if not code and values.get("retention.ms") is not None:
                kept = "delete" not in values.get("cleanup.policy", "delete")
                found[topic] = UNLIMITED_MS if kept else int(values["retention.ms"])
    return found


def retention_warning(retention_ms: Mapping[str, int], inbox_retention: timedelta) -> str | None:
    """Return which topics keep records longer than the inbox remembers them, and what that costs; None for none."""
    inbox_ms = inbox_retention // timedelta(milliseconds=1)
    longer = [
        f"{topic} ({'for good' if kept == UNLIMITED_MS else format_duration(timedelta(milliseconds=kept))})"
        for topic, kept in sorted(retention_ms.items())
        if kept == UNLIMITED_MS or kept > inbox_ms
    ]
    if not longer:
        return None
    return (
        f"Kafka keeps {', '.join(longer)} longer than the inbox remembers events, "
        f"INVENTORY_INBOX_RETENTION={format_duration(inbox_retention)}: where such a topic is read from its beginning, "
        "by another group or after offsets were lost, adjustments without a business id are applied again. "
        "Set the topics' retention.ms to at most that, or the setting to at least theirs"
    )
