"""What the README says is so: its examples run as they stand, its tables are the program's."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from api.app import ROUTERS
from api.values import PREFIX
from dev.servers import leash
from dev.servers.kafka import Broker
from dev.servers.process import free_port
from inventory.settings import Settings, printable
from inventory.variables import variable
from schemas.topics import RESERVATIONS, TOPICS_IN, TOPICS_OUT, TOPICS_STATE
from tests.acceptance import node_packages
from tests.acceptance.deployment import ROOT, Deployment, clean_environment, existing_topics, wait_until

NODE = Path(__file__).parent / "node"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPET_TIMEOUT_SECONDS = 60
EFFECT_TIMEOUT_SECONDS = 60
# The servers' addresses in the README's start commands; the rest of the commands runs unchanged.
README_KAFKA = "localhost:9092"
README_DATABASE = "postgresql://localhost/inventory"

Run = Callable[[str, str], str]


def block(heading: str, language: str, number: int = 0) -> str:
    """Return a code block of a section."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return blocks[number]


# --- the examples ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tools() -> None:
    """Skips or fails unless kcat and Node.js are installed; installs kafkajs from the lock file."""
    if shutil.which("kcat") is None:
        node_packages.missing("kcat is not installed; on Debian: apt-get install kcat")
    node_packages.install(NODE)


@pytest.fixture
def shop(
    tools: None,  # noqa: ARG001 - they have to be there before servers are started
    real_kafka: Broker,
    blank_database_url: str,
    tmp_path: Path,
) -> Iterator[Deployment]:
    """A worker started by the README's three commands, on topics without a prefix and an empty database."""
    shop = Deployment(real_kafka.bootstrap_servers, blank_database_url, tmp_path, prefix="")
    shop.group_id = "inventory-worker"
    if existing_topics(shop.bootstrap_servers) & set(TOPICS_IN):
        node_packages.missing("this Kafka already has topics with the program's names")
    commands = block("Quickstart", "sh", 1)
    assert commands.count(README_KAFKA) == commands.count(README_DATABASE) == 1
    commands = commands.replace(README_KAFKA, shop.bootstrap_servers).replace(README_DATABASE, shop.database_url)
    try:
        with _serving("the worker", commands, tmp_path / "worker.log"):
            yield shop
    finally:
        shop.delete_topics(*TOPICS_IN, *TOPICS_OUT, *TOPICS_STATE, *(f"{topic}.dlq" for topic in TOPICS_IN))


@contextlib.contextmanager
def _serving(name: str, commands: str, log: Path, **variables: str) -> Iterator[None]:
    """Run commands of the README, the last of which serves until it is ended, and wait until that is ready."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", commands],  # noqa: S607 - the user's own shell
            env=_environment(INVENTORY_HTTP_PORT=str(free_port()), **variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    leash.hold(process.pid, signal.SIGKILL)
    try:
        wait_until(lambda: "Ready: " in log.read_text(), EFFECT_TIMEOUT_SECONDS, f"{name} is ready", log.read_text)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(SNIPPET_TIMEOUT_SECONDS)
        leash.release(process.pid)


@pytest.fixture
def run(shop: Deployment) -> Run:
    """Run a snippet in a language and return its output."""
    interpreters = {
        "sh": ["bash", "-euo", "pipefail", "-c"],
        "python": [sys.executable, "-c"],
        "js": ["node", "-e"],
    }

    def run_snippet(language: str, code: str) -> str:
        finished = subprocess.run(
            [*interpreters[language], code],
            cwd=NODE,
            env=_environment(
                BROKER=shop.bootstrap_servers,
                INVENTORY_KAFKA_BOOTSTRAP_SERVERS=shop.bootstrap_servers,
                INVENTORY_DATABASE_URL=shop.database_url,
            ),
            capture_output=True,
            check=False,
            text=True,
            timeout=SNIPPET_TIMEOUT_SECONDS,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run_snippet


def _environment(**variables: str) -> dict[str, str]:
    """Return an environment in which `inventory` is this project's command."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**clean_environment(**variables), "PATH": path}


def test_the_examples_run_unchanged(shop: Deployment, run: Run) -> None:
    """A product from kcat, an order from Python, a payment from Node; then the alert and a dead letter."""

    def expect(sql: str, *expected: int) -> None:
        wait_until(
            lambda: [expected] == [tuple(row) for row in shop.query(sql)], EFFECT_TIMEOUT_SECONDS, f"{sql}: {expected}"
        )

    stock = "SELECT on_hand, reserved FROM inventory WHERE product_id = 'mug'"
    run("sh", block("Publish an event", "sh"))
    expect(stock, 20, 0)
    run("python", block("Publish an event", "python"))
    expect(stock, 20, 15)
    run("js", block("Publish an event", "js"))
    expect(stock, 5, 0)
    # Repeats are suppressed, as the README says.
    for language in ("sh", "python", "js"):
        run(language, block("Publish an event", language))
    shop.settle(*TOPICS_IN)
    expect(stock, 5, 0)

    show, audit = block("Publish an event", "sh", 1).splitlines()
    mug = dict(zip(*(line.split() for line in run("sh", show).splitlines()), strict=True))
    assert ("5", "0", "5") == (mug["ON_HAND"], mug["RESERVED"], mug["AVAILABLE"])
    assert "audit: ok" in run("sh", audit)

    _check_alert(run("sh", block("Consume alerts", "sh")))

    run("sh", 'echo "{broken" | kcat -b "$BROKER" -P -t order.created')
    expect("SELECT count(*) FROM dead_letters WHERE reason = 'decode_error' AND published_at IS NOT NULL", 1)
    list_, show = block("Inspect dead letters", "sh").splitlines()
    listed = run("sh", list_)
    assert "decode_error" in listed
    dead_letter = str(shop.value("SELECT id FROM dead_letters"))
    assert dead_letter in listed
    shown = run("sh", show.replace(" ID ", f" {dead_letter} "))
    assert "{broken" in shown
    headers = run("sh", 'kcat -b "$BROKER" -C -q -t order.created.dlq -o beginning -e -f "%s %h\\n"')
    assert headers.startswith("{broken ")
    assert "x-dlq-reason=decode_error" in headers
    assert "x-original-topic=order.created" in headers


def _check_alert(printed: str) -> None:
    """There is one alert, and it equals the README's except for id and time."""
    published = json.loads(printed)
    shown = json.loads(block("Consume alerts", "json"))
    assert shown.keys() == published.keys()
    for body in (published, shown):
        del body["event_id"], body["occurred_at"]
    assert shown == published


@pytest.fixture
def api(blank_database_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """An API alone, started by the README's two lines on an empty database; gives what its user has exported."""
    port = free_port()
    commands = block("Call the HTTP API", "sh").replace(README_DATABASE, blank_database_url)
    assert README_DATABASE not in commands
    assert f"on port {Settings.model_fields['api_listen_port'].default}" in commands
    secret = tmp_path / "secret"
    commands = commands.replace("\n", f"\necho $INVENTORY_API_HS256_SECRET > {secret}\n", 1)
    with _serving("the API", commands, tmp_path / "api.log", INVENTORY_API_LISTEN_PORT=str(port)):
        yield {
            "INVENTORY_DATABASE_URL": blank_database_url,
            "INVENTORY_API_HS256_SECRET": secret.read_text().strip(),
            "API": f"http://localhost:{port}{PREFIX}",
        }


def test_a_shop_can_be_run_by_http_alone(api: dict[str, str]) -> None:
    """Look, cart, order, deduct, ledger: the README's lines run unchanged, and what they print adds up."""
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block("Call the HTTP API", "sh", 1)],  # noqa: S607 - the user's own shell
        env=_environment(**api),
        capture_output=True,
        check=False,
        text=True,
        timeout=SNIPPET_TIMEOUT_SECONDS,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    added, looked, cart, order, deducted, ledger = map(json.loads, finished.stdout.splitlines())
    assert (added["on_hand"], looked["available"]) == (20, 20)
    held = [{"product_id": "kettle", "quantity": 3}]
    assert (cart["cart_id"], cart["items"]) == ("user:ann", held)
    assert (order["status"], order["items"], deducted["status"]) == ("reserved", held, "deducted")
    entries = [(entry["type"], entry["on_hand_after"], entry["reserved_after"]) for entry in ledger["transactions"]]
    # The newest first; the order takes over the cart's hold.
    assert entries == [("OUT", 17, 0), ("RESERVE", 20, 3), ("RELEASE", 20, 0), ("RESERVE", 20, 3), ("ADJUST", 20, 0)]


# --- the tables -----------------------------------------------------------------------------------


def _rows(heading: str) -> list[list[str]]:
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip().strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def test_settings_have_the_defaults_of_the_program() -> None:
    """Every variable of the table exists, with the program's default."""
    defaults = printable(Settings.model_construct())
    expected = {variable(field): value for field, value in defaults.items()}
    rows = {row[0].strip("`"): row[1] for row in _rows("Settings")}
    assert rows
    assert rows.keys() <= expected.keys()
    assert {name: f"`{expected[name]}`" if expected[name] else "none: the cache is off" for name in rows} == rows


def test_every_variable_in_the_text_is_a_setting() -> None:
    """The README names no unknown setting."""
    known = {variable(field) for field in Settings.model_fields}
    assert set(re.findall(r"INVENTORY_[A-Z0-9_]*[A-Z0-9]", README)) <= known


def test_topics_are_those_of_the_contracts() -> None:
    """Each topic in has its row, in order, with its contract and its handler."""
    expected = []
    for topic in TOPICS_IN:
        schema, handler = f"docs/contracts/events/{topic}.json", f"workers/handlers/{topic.replace('.', '_')}.py"
        expected.append([f"`{topic}`", f"[schema]({schema})", f"[{Path(handler).name}]({handler})"])
        assert (ROOT / schema).exists()
        assert (ROOT / handler).exists()
    assert expected == [row[:3] for row in _rows("Topics")]


def test_outcomes_in_the_table_exist_and_none_is_left_out() -> None:
    """The last column names only types of `inventory.reservations`, and the section names all of them."""
    outcomes = {name.removeprefix("inventory.reservation.") for name in TOPICS_OUT[RESERVATIONS].types}
    named = {name for row in _rows("Topics") for name in re.findall(r"`(\w+)`", row[4])}
    assert named <= outcomes
    section = README.split("\n## Topics\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", section)) >= outcomes
    assert all(f"`{topic}`" in section for topic in TOPICS_OUT)


def test_requests_are_those_of_the_api() -> None:
    """Each route has its row, with who may call it."""
    checks = {"_anyone": "any", "_service_or_admin": "service, admin", "_admin": "admin"}
    expected = {}
    for route in (route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)):
        who = {checks[call] for part in route.dependant.dependencies if (call := _name(part.call)) in checks}
        if "/reserve/" in route.path:
            who = {"owner"}
        request = f"{''.join(route.methods or ())} {route.path.removeprefix(PREFIX)}"
        expected[f"`{request.strip()}`"] = who
    assert expected == {row[0]: {row[1]} for row in _rows("Call the HTTP API")}


def _name(call: object) -> str:
    return str(getattr(call, "__name__", ""))
