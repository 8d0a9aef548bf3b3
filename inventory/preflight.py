"""What `inventory run` requires of its servers before it starts: the tables of this version, and the topics."""

import asyncio
import logging
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from inventory import kafka
from inventory.database import connection, require_migrated, unreachable
from inventory.errors import OperatorError
from inventory.settings import Settings
from inventory.topic_retention import read_retention, retention_warning
from inventory.topics import size_warning
from schemas.topics import TOPICS_IN
from storage.database import connect_worker
from storage.errors import Remedy, remedy_of

logger = logging.getLogger(__name__)

TOPIC_CHECKS: Final = 6
SECONDS_BETWEEN_CHECKS: Final = 0.5
CHECK_NAME: Final = "inventory-check"
CLOSE_SECONDS: Final = 5.0
POOLER: Final = (
    "INVENTORY_DATABASE_URL leads to a connection pooler that shares sessions (pool_mode = transaction) or does not "
    "pass on their settings: set it to PostgreSQL's own address; each worker has its own pool "
    "(INVENTORY_DATABASE_POOL_SIZE)"
)


async def check_database(settings: Settings) -> None:
    """Raise OperatorError unless the database answers and has the tables of this version."""
    async with connection(settings) as opened:
        await require_migrated(opened)
    await check_pooling(settings)


async def check_pooling(settings: Settings) -> None:
    """Raise OperatorError if a pooler shares sessions between clients or drops their settings.

    The worker needs both: session locks and prepared statements, time limits, and plans that only look rows up.
    """
    try:
        first = await connect_worker(settings.database_url, CHECK_NAME)
        try:
            second = await connect_worker(settings.database_url, CHECK_NAME)
            try:
                # A query each, so that in transaction mode both are given the same server process.
                processes = {await session.fetchval("SELECT pg_backend_pid()") for session in (first, second)}
                ignored = await first.fetchval("SHOW enable_seqscan") != "off"
            finally:
                await second.close(timeout=CLOSE_SECONDS)
        finally:
            await first.close(timeout=CLOSE_SECONDS)
    except Exception as error:
        if remedy_of(error) is not Remedy.REFUSE:
            raise unreachable(settings, error) from error
        raise OperatorError(POOLER) from error
    if len(processes) == 1 or ignored:
        raise OperatorError(POOLER)


async def check_topics(settings: Settings) -> None:
    """Raise OperatorError unless Kafka answers and has every topic that is read; warn of low limits, long retention."""
    missing = sorted(TOPICS_IN)
    async with kafka.admin_client(settings) as admin:
        # A topic that was just created is not known to every broker at once.
        for _ in range(TOPIC_CHECKS):
            existing = set(await admin.list_topics())
            missing = sorted(topic for topic in TOPICS_IN if settings.kafka_topic_prefix + topic not in existing)
            if not missing:
                await _warn_of_long_retention(admin, settings)
                if warning := await size_warning(admin, settings.kafka_topic_prefix):
                    logger.warning("%s", warning[0].upper() + warning[1:])
                return
            await asyncio.sleep(SECONDS_BETWEEN_CHECKS)
    raise OperatorError(f"Kafka has no topic {', '.join(missing)}: run `inventory topics create` first")


async def _warn_of_long_retention(admin: AIOKafkaAdminClient, settings: Settings) -> None:
    """Log which topics outlive the inbox; a broker that does not say, or does not allow it, is no reason to stop."""
    try:
        topics = [settings.kafka_topic_prefix + topic for topic in TOPICS_IN]
        warning = retention_warning(await read_retention(admin, topics), settings.inbox_retention)
    except (KafkaError, OSError, TimeoutError, AttributeError) as error:
        logger.debug("The retention of the topics is unknown (%s)", error or type(error).__name__)
        return
    if warning is not None:
        logger.warning("%s", warning)
