"""How the program reaches Kafka: turns settings into client options."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from inventory.errors import OperatorError
from inventory.logs import clients_silenced
from inventory.settings import Settings
from inventory.topics import TopicLayout

CLIENT_ID = "inventory"
ADMIN_TIMEOUT_SECONDS = 15.0
PRODUCER_TIMEOUT_SECONDS = 30.0
GROUP_TIMEOUT_SECONDS = 30.0
PRODUCER_LINGER_MS = 5


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments of every aiokafka client: addresses, TLS, SASL, client id."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_brokers,
        "client_id": CLIENT_ID,
        "security_protocol": settings.kafka_security_protocol,
    }
    if context := ssl_context(settings):
        options["ssl_context"] = context
    if settings.kafka_sasl_mechanism and settings.kafka_sasl_password:
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    return options


def producer_options(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments of an idempotent producer with acks=all."""
    return {**client_options(settings), "acks": "all", "enable_idempotence": True}


def broker_security(settings: Settings) -> BaseSecurity:
    """Return the same TLS and SASL settings in the form that FastStream's KafkaBroker takes."""
    context = ssl_context(settings)
    if settings.kafka_sasl_mechanism is None or settings.kafka_sasl_password is None:
        return BaseSecurity(ssl_context=context)
    kinds = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}
    return kinds[settings.kafka_sasl_mechanism](
        username=settings.kafka_sasl_username or "",
        password=settings.kafka_sasl_password.get_secret_value(),
        ssl_context=context,
    )


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context, or None for a protocol without TLS; raises OperatorError for unusable files."""
    if not settings.kafka_security_protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_cafile)
        if settings.kafka_ssl_certfile is not None:
            # Without a password OpenSSL would prompt on the terminal for an encrypted key's, and wait.
            context.load_cert_chain(settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile, password="")
    except (ssl.SSLError, OSError) as error:
        raise OperatorError(f"the INVENTORY_KAFKA_SSL_ files cannot be used: {error}") from error
    return context


def unreachable(settings: Settings, error: BaseException) -> OperatorError:
    """Return the error for a Kafka that does not answer or refuses the connection."""
    # aiokafka's message repeats the addresses, which stand at the start of ours.
    detail = "no broker answers" if isinstance(error, KafkaConnectionError) else str(error) or type(error).__name__
    return OperatorError(
        f"Kafka at {settings.kafka_bootstrap_servers} cannot be used: {detail}; check that it runs, "
        "INVENTORY_KAFKA_BOOTSTRAP_SERVERS and the SASL and TLS settings"
    )


@asynccontextmanager
async def admin_client(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Give a started admin client; raises OperatorError if Kafka cannot be used, also inside the block."""
    client = AIOKafkaAdminClient(**client_options(settings), request_timeout_ms=int(ADMIN_TIMEOUT_SECONDS * 1000))
    try:
        with clients_silenced():
            async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
                await client.start()
        yield client
    except (KafkaError, OSError, TimeoutError) as error:
        raise unreachable(settings, error) from error
    finally:
        await client.close()


@asynccontextmanager
async def producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """Give a started producer; raises OperatorError if Kafka cannot be used, also inside the block."""
    client = AIOKafkaProducer(**producer_options(settings), linger_ms=PRODUCER_LINGER_MS)
    try:
        async with asyncio.timeout(PRODUCER_TIMEOUT_SECONDS):
            await client.start()
        yield client
    except (KafkaError, OSError, TimeoutError) as error:
        raise unreachable(settings, error) from error
    finally:
        # Stopping waits for what is in flight, without a bound if the broker is gone.
        with contextlib.suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(PRODUCER_TIMEOUT_SECONDS):
                await client.stop()


@asynccontextmanager
async def group_consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """Give a consumer that reads and commits the group's offsets without joining it.

    Raises OperatorError if Kafka cannot be used, or the block takes over 30 seconds.
    """
    client = AIOKafkaConsumer(**client_options(settings), group_id=settings.kafka_group_id, enable_auto_commit=False)
    try:
        async with asyncio.timeout(GROUP_TIMEOUT_SECONDS):
            await client.start()
            yield client
    except (KafkaError, OSError) as error:
        raise unreachable(settings, error) from error
    finally:
        await client.stop()


def topic_layout(settings: Settings) -> TopicLayout:
    """Return how the settings want the topics to be created."""
    return TopicLayout(
        settings.kafka_topic_prefix,
        settings.kafka_topic_partitions,
        settings.kafka_replication_factor,
        settings.kafka_dlq_retention,
        settings.inbox_retention,
    )
