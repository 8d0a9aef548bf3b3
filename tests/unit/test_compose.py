"""The compose file and the image agree with the compose specification, the settings and the pinned versions."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from dev.servers.kafka_settings import VERSION
from inventory.durations import parse_duration
from inventory.settings import Settings
from inventory.variables import PREFIX

REPOSITORY: Final = Path(__file__).parent.parent.parent
COMPOSE_FILE: Final = REPOSITORY / "compose.yaml"
COMPOSE: Final[Mapping[str, Any]] = yaml.safe_load(COMPOSE_FILE.read_text())
SERVICES: Final[Mapping[str, Any]] = COMPOSE["services"]
PYPROJECT: Final = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_compose_file_follows_the_specification() -> None:
    """The compose specification's own JSON Schema accepts the file."""
    finished = _check_against_specification(COMPOSE_FILE)
    assert finished.returncode == 0, finished.stdout


def test_a_misspelt_key_is_refused(tmp_path: Path) -> None:
    """The check can fail: an unknown key is reported by name."""
    broken = tmp_path / "compose.yaml"
    broken.write_text(COMPOSE_FILE.read_text().replace("healthcheck:", "health_check:", 1))
    finished = _check_against_specification(broken)
    assert finished.returncode == 1
    assert "health_check" in finished.stdout


@pytest.mark.parametrize("file", ["compose.yaml", "Dockerfile"])
def test_every_setting_named_exists(file: str) -> None:
    """Every variable with our prefix, also in comments, is a field of Settings."""
    named = set(re.findall(rf"{PREFIX}[A-Z0-9_]+", (REPOSITORY / file).read_text()))
    assert named <= {PREFIX + field.upper() for field in Settings.model_fields}


@pytest.mark.parametrize("service", ["setup", "worker", "api"])
def test_settings_of_our_services_are_valid(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program accepts the file's values, and they lead to the file's own servers."""
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    for name, value in SERVICES[service]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.kafka_bootstrap_servers in _listeners()
    credentials = "{POSTGRES_USER}:{POSTGRES_PASSWORD}".format(**SERVICES["postgres"]["environment"])
    assert settings.database_url == f"postgresql://{credentials}@postgres:5432/inventory"


def test_worker_has_no_fixed_port_outside() -> None:
    """Several workers fit on one machine, and none is reachable from other machines."""
    assert [{"target": 8080, "host_ip": "127.0.0.1"}] == SERVICES["worker"]["ports"]
    assert "container_name" not in SERVICES["worker"]


def test_published_ports_are_on_the_loopback_address() -> None:
    """Passwords are in plain text in the file, so no port is reachable from other machines."""
    fixed = [port for service in SERVICES.values() for port in service.get("ports", []) if isinstance(port, str)]
    assert fixed
    assert [port for port in fixed if not port.startswith("127.0.0.1:")] == []


def test_worker_starts_after_the_setup_step_and_healthy_servers() -> None:
    """Migrations and topics are complete before the first worker starts."""
    conditions = {name: wait["condition"] for name, wait in SERVICES["worker"]["depends_on"].items()}
    assert conditions == {
        "setup": "service_completed_successfully",
        "kafka": "service_healthy",
        "postgres": "service_healthy",
        "redis": "service_started",
    }
    assert ["inventory migrate && inventory topics create"] == SERVICES["setup"]["command"]


def test_every_healthy_dependency_has_a_health_check() -> None:
    """A service whose health others wait for has a health check."""
    awaited = {
        name
        for service in SERVICES.values()
        for name, wait in service.get("depends_on", {}).items()
        if wait["condition"] == "service_healthy"
    }
    assert {name for name in awaited if "healthcheck" not in SERVICES[name]} == set()
    assert "healthcheck" in SERVICES["worker"]


def test_docker_gives_a_worker_the_time_that_its_settings_promise() -> None:
    """Docker's grace period is longer than the worker's own shutdown timeout."""
    stop = parse_duration(SERVICES["worker"]["environment"]["INVENTORY_SHUTDOWN_TIMEOUT"])
    grace = parse_duration(SERVICES["worker"]["stop_grace_period"])
    assert isinstance(stop, timedelta)
    assert isinstance(grace, timedelta)
    assert stop < grace


def test_kafka_is_the_version_that_the_tests_run() -> None:
    """Tests and compose use the same version of Kafka."""
    assert f"apache/kafka:{VERSION}" == SERVICES["kafka"]["image"]


def test_image_holds_every_package_of_the_wheel() -> None:
    """The build context, which names what it lets in, has each package and the licence that the wheel is made of."""
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = set(PYPROJECT["tool"]["uv"]["build-backend"]["module-name"])
    assert packages <= allowed
    assert allowed - packages == {"pyproject.toml", "LICENSE", "requirements.txt", "requirements-build.txt"}
    assert set(PYPROJECT["project"]["license-files"]) <= allowed


def test_wheel_holds_every_package_that_ships_and_no_other() -> None:
    """The wheel and the import contracts name every top-level package but `dev` and `tests`, which never ship."""
    packages = {
        path.name
        for path in REPOSITORY.iterdir()
        if path.is_dir() and not path.name.startswith(".") and any(path.glob("*.py"))
    }
    shipped = PYPROJECT["tool"]["uv"]["build-backend"]["module-name"]
    assert sorted(packages - {"dev", "tests"}) == sorted(shipped)
    assert sorted(PYPROJECT["tool"]["importlinter"]["root_packages"]) == sorted([*shipped, "dev"])


def test_image_does_not_run_as_root() -> None:
    """The Dockerfile's last USER is numeric, so that an orchestrator can verify that it is not root."""
    users = re.findall(r"^USER (\S+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert users[-1] == "10001:10001"


def test_pins_name_neither_machine_nor_registry() -> None:
    """Requirements files contain versions and hashes only, so that any registry can serve them."""
    for file in REPOSITORY.glob("requirements*.txt"):
        assert re.findall(r"https?://|--(?:index|extra-index|find-links).*|file:.*", file.read_text()) == []


def _listeners() -> list[str]:
    advertised = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    return re.findall(r"://([^,]+)", advertised)


def _check_against_specification(file: Path) -> "subprocess.CompletedProcess[str]":
    """Validate with the schema bundled with check-jsonschema (compose-spec, Apache-2.0)."""
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)],
        capture_output=True,
        check=False,
        text=True,
    )
