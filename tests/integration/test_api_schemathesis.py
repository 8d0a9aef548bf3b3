"""The API against its own document: whatever schemathesis makes of it, every answer is one that the document names.

It sends examples, edge cases, random requests and sequences that follow the document's links, with a token of each
role. The run is bounded by the number of examples; a failure prints the request as a curl line.
"""

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from api.auth import Role
from tests.integration.api_process import PROCESS_RULES, api_process
from tests.integration.api_shop import token
from tests.integration.shop import open_shop, problems, product

DOCUMENT = Path(__file__).parents[2] / "docs" / "contracts" / "openapi.json"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
SECONDS = 150  # only a bound: it takes some 25 s
MIN_CASES = 100
MIN_LINKS = 5


@pytest.mark.parametrize("role", list(Role))
async def test_every_answer_is_in_the_document(database_url: str, tmp_path: Path, role: Role) -> None:
    """No 5xx, no status, type, header or body that the document does not have, and balanced books afterwards."""
    async with open_shop(database_url) as shop, api_process(database_url, INVENTORY_API_STREAM_LIFETIME="1s") as api:
        await shop.apply(product("mug-blue", 50), product("tea-green", 5, 10))
        bearer = token("ann", role, rules=PROCESS_RULES)
        report = tmp_path / "report.json"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", str(DOCUMENT), "--url", api.url),
            *("--header", f"Authorization: Bearer {bearer}", "--checks", ",".join(CHECKS)),
            *("--max-examples", "25", "--seed", "7", "--generation-database", "none"),
            *("--warnings", "off", "--report-json-path", str(report), "--no-color"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(SECONDS):
            output = (await process.communicate())[0].decode()
        assert process.returncode == 0, output[-6000:]
        assert await problems(shop.pool) == []
    followed = re.search(r"API Links:\s+(\d+) covered", output)
    assert followed is not None, output
    assert int(followed[1]) >= MIN_LINKS, output
    ran = json.loads(report.read_text())
    assert ran["operations"]["tested"] == ran["operations"]["total"]
    assert (ran["test_cases"]["generated"] >= MIN_CASES, ran["failures"], ran["errors"]) == (True, [], [])
