"""A shop, a broker, and what publishes between them."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from tests.integration.shop import Shop


class Publishing(Protocol):
    """A relay or a publisher of levels."""

    async def run(self) -> None:
        """Publish until cancelled."""

    async def close(self) -> None:
        """Stop the producer and close the connection."""


@dataclass
class PublishingStage:
    """Relays or publishers that are stopped at the end; `application` is the name of their sessions."""

    application: ClassVar[str]

    shop: Shop
    url: str
    bootstrap_servers: str
    prefix: str
    made: list[Publishing] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def producer_options(self) -> dict[str, Any]:
        """The options of their producers."""
        return {"bootstrap_servers": self.bootstrap_servers, "acks": "all", "enable_idempotence": True}

    def run(self, publishing: Publishing) -> None:
        """Let one run."""
        self.tasks.append(asyncio.create_task(publishing.run()))

    async def stop(self) -> None:
        """Stop all."""
        for one in self.tasks:
            one.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for made in self.made:
            await made.close()

    async def end_sessions(self) -> None:
        """End their sessions, as a server does that restarts."""
        await self.shop.pool.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = $1 AND datname = current_database()",
            self.application,
        )
