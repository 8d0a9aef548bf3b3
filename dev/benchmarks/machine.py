"""Describes what a run was measured on."""

import os
import platform
from typing import Any

from dev.benchmarks.servers import POSTGRES_SETTINGS, Servers

PARTITIONS = 8


def machine(servers: Servers) -> dict[str, Any]:
    """Return servers, durability, cores and load; a load above the cores makes the figures unreliable."""
    version = servers.postgres.sql("SELECT split_part(version(), ' ', 2)")
    settings = ", ".join(f"{name} {servers.postgres.sql(f'SHOW {name}')}" for name in POSTGRES_SETTINGS)
    return {
        "broker": servers.broker.description,
        "postgresql": f"{version} ({settings})",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load": f"{os.getloadavg()[1]:.1f} over five minutes",
    }
