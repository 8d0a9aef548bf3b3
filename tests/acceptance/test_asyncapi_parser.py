"""The official AsyncAPI parser accepts the document; needs Node.js 20, and the npm registry the first time."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.acceptance import node_packages

HERE = Path(__file__).parent / "asyncapi-parser"
DOCUMENT = Path(__file__).parents[2] / "docs" / "contracts" / "asyncapi.json"
PARSE_TIMEOUT_S = 60


@pytest.fixture(scope="module")
def node() -> str:
    """Node.js, with the parser installed from the lock file unless it already is."""
    return node_packages.install(HERE)


def parse(node: str, document: Path) -> subprocess.CompletedProcess[str]:
    """Run the check; the last line of its output is a summary."""
    return subprocess.run(
        [node, str(HERE / "check.mjs"), str(document)],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=PARSE_TIMEOUT_S,
        check=False,
    )


def test_the_parser_accepts_the_document(node: str) -> None:
    """No error and no warning, and every channel, operation and message is recognised."""
    result = parse(node, DOCUMENT)
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    document = json.loads(DOCUMENT.read_text())
    expected = {
        "version": "3.0.0",
        "channels": len(document["channels"]),
        "operations": len(document["operations"]),
        "messages": len(document["components"]["messages"]),
        "serious": 0,
    }
    assert expected == summary


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("operations/receive_order_created/channel/$ref", "#/channels/nowhere"),
        ("components/schemas/Item/properties/quantity/type", "many"),
        ("components/messages/order.created.binary/bindings/kafka/bindingVersion", 5),
    ],
)
def test_the_check_can_fail(node: str, tmp_path: Path, place: str, value: object) -> None:
    """A dangling reference, an invalid schema and a malformed binding are reported."""
    document = json.loads(DOCUMENT.read_text())
    *steps, last = [int(step) if step.isdigit() else step for step in place.split("/")]
    target = document
    for step in steps:
        target = target[step]
    assert last in target
    target[last] = value
    broken = tmp_path / "asyncapi.json"
    broken.write_text(json.dumps(document))
    result = parse(node, broken)
    assert result.returncode == 1, result.stdout
    assert json.loads(result.stdout.splitlines()[-1])["serious"] > 0
