"""Node.js packages for tests: installed from a folder's lock file the first time they are needed."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

INSTALL_TIMEOUT_SECONDS = 150


def missing(reason: str) -> NoReturn:
    """Skip the test on a laptop, fail it in CI."""
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(f"required in CI: {reason}")
    pytest.skip(reason)


def install(folder: Path) -> str:
    """Install the packages of the folder's lock file unless they are there already; returns the path of Node.js."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        missing("Node.js is not installed")
    installed = folder / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (folder / "package-lock.json").stat().st_mtime:
        # No install scripts: the only one in the dependencies is telemetry.
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS, check=False
        )
        if result.returncode != 0:
            missing(f"npm ci failed: {result.stderr[-500:]}")
    return node
