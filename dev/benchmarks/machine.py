"""What a run was measured on."""

import os
import platform
from typing import Any

from dev.benchmarks.servers import POSTGRES_SETTINGS, Servers

PARTITIONS = 8


def machine(servers: Servers) -> dict[str, Any]:
    """Return the servers, their durability and the size of the machine; load above its cores blurs the figures."""
    version = servers.postgres.sql("SELECT split_part(version(), ' ', 2)")
    settings = ", ".join(f"{name} {servers.postgres.sql(f'SHOW {name}')}" for name in POSTGRES_SETTINGS)
    return {
        "broker": servers.broker.description,
        "postgresql": f"{version} ({settings})",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load": f"{os.getloadavg()[1]:.1f} over five minutes",
    }
