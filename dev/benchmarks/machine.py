"""What a run was measured on."""

import os
import platform
from typing import Any

from dev.benchmarks.stack import POSTGRES_SETTINGS, Stack

PARTITIONS = 8


def machine(stack: Stack) -> dict[str, Any]:
    """Return the servers, their durability and the size of the machine; load above its cores blurs the figures."""
    version = stack.postgres.sql("SELECT split_part(version(), ' ', 2)")
    settings = ", ".join(f"{name} {stack.postgres.sql(f'SHOW {name}')}" for name in POSTGRES_SETTINGS)
    return {
        "broker": stack.broker.description,
        "postgresql": f"{version} ({settings})",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load": f"{os.getloadavg()[1]:.1f} over five minutes",
    }
