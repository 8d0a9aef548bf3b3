"""What `inventory run` requires of its servers before it starts: the tables of this version, and the topics."""

import asyncio
from typing import Final

from inventory import kafka
from inventory.database import connection, require_migrated
from inventory.errors import OperatorError
from inventory.settings import Settings
from schemas.topics import TOPICS_IN

TOPIC_CHECKS: Final = 6
SECONDS_BETWEEN_CHECKS: Final = 0.5


async def check_database(settings: Settings) -> None:
    """Raise OperatorError unless the database answers and has the tables of this version."""
    async with connection(settings) as opened:
        await require_migrated(opened)


async def check_topics(settings: Settings) -> None:
    """Raise OperatorError unless Kafka answers and has every topic that is read."""
    missing = sorted(TOPICS_IN)
    async with kafka.admin_client(settings) as admin:
        # A topic that was just created is not known to every broker at once.
        for _ in range(TOPIC_CHECKS):
            existing = set(await admin.list_topics())
            missing = sorted(topic for topic in TOPICS_IN if settings.kafka_topic_prefix + topic not in existing)
            if not missing:
                return
            await asyncio.sleep(SECONDS_BETWEEN_CHECKS)
    raise OperatorError(f"Kafka has no topic {', '.join(missing)}: run `inventory topics create` first")
