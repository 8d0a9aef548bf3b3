"""`inventory stock`: looking at stock and correcting it, on a real database."""

import asyncio
import json
from typing import Any

import pytest

from dev.servers.redis import RedisServer
from dev.servers.redis import start as start_redis
from inventory.errors import OperatorError
from storage.database import connect
from tests.integration.stock_program import inventory, shown

pytestmark = pytest.mark.usefixtures("stocked_shop")


def test_show_lists_every_product() -> None:
    """Without arguments all products are shown, numbers to the right."""
    lines = inventory("show").stdout.splitlines()
    assert ["PRODUCT_ID", "ON_HAND", "RESERVED", "AVAILABLE", "THRESHOLD", "STATUS", "VERSION"] == lines[0].split()
    assert ["apple", "50", "4", "46", "10", "ok", "2"] == lines[1].split()
    assert ["apple", "bread", "cheese"] == [line.split()[0] for line in lines[1:]]


def test_show_names_what_does_not_exist() -> None:
    """A product that does not exist is a warning and exit code 1; those that exist are shown all the same."""
    result = inventory("show", "bread", "nothing", "apple")
    assert ["bread", "apple"] == [line.split()[0] for line in result.stdout.splitlines()[1:]]
    assert (1, "warning: there is no product nothing\n") == (result.exit_code, result.stderr)


def test_show_low_lists_what_runs_out() -> None:
    """`--low` shows products at or below their threshold."""
    assert ["bread", "cheese"] == [row["product_id"] for row in shown("show", "--low")]
    assert ["bread"] == [row["product_id"] for row in shown("show", "--low", "bread", "apple")]


def test_show_says_when_there_is_more() -> None:
    """A list that was cut says so."""
    assert "2 of 3; --limit" in inventory("show", "--limit", "2").stdout.splitlines()[-1]


def test_show_reads_the_cache(redis_url: str, monkeypatch: pytest.MonkeyPatch, stocked_shop: str) -> None:
    """`--from cache` gives what the cache has, and fills it from PostgreSQL with what it lacks."""
    monkeypatch.setenv("INVENTORY_REDIS_URL", redis_url)
    first = shown("show", "apple", "--from", "cache")
    change_behind_the_cache(stocked_shop)
    assert first == shown("show", "apple", "--from", "cache")
    assert 49 == shown("show", "apple", "--from", "database")[0]["on_hand"]
    assert ["bread", "cheese"] == [row["product_id"] for row in shown("show", "--low", "--from", "cache")]


def test_show_goes_on_without_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that is away is one warning; the answer comes from PostgreSQL."""
    server: RedisServer = start_redis()
    monkeypatch.setenv("INVENTORY_REDIS_URL", server.url)
    server.close()
    assert 50 == shown("show", "apple", "--from", "cache")[0]["on_hand"]


def test_show_from_no_cache_says_what_to_set() -> None:
    """Without a Redis address `--from cache` names the variable."""
    result = inventory("show", "apple", "--from", "cache")
    assert isinstance(result.exception, OperatorError)
    assert "INVENTORY_REDIS_URL" in str(result.exception)


@pytest.mark.parametrize("arguments", [("--from", "cache"), ("--from", "cache", "--low", "apple")])
def test_the_cache_cannot_list_everything(arguments: tuple[str, ...]) -> None:
    """The cache knows products by id and the low ones, nothing else; asking more is wrong use."""
    assert 2 == inventory("show", *arguments).exit_code


# --- history ------------------------------------------------------------------------------------


def test_history_shows_the_newest_first() -> None:
    """Each entry says what moved and what for."""
    rows = shown("history", "apple")
    assert [(2, "RESERVE", 4, "ORDER", "o1"), (1, "IN", 50, "IMPORT", "apple")] == [
        (row["sequence"], row["type"], row["quantity"], row["reference_type"], row["reference_id"]) for row in rows
    ]
    lines = inventory("history", "apple", "--limit", "1").stdout.splitlines()
    assert ("0 -> 4" in lines[1], "1 of 2; --limit shows more") == (True, lines[2])


def test_history_of_nothing_is_refused() -> None:
    """A product that does not exist is exit code 1."""
    assert 1 == inventory("history", "nothing").exit_code


# --- adjust and threshold -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "on_hand"), [(("--add", "5"), 55), (("--subtract", "46"), 4), (("--set", "7"), 7)]
)
def test_adjust_moves_the_stock(arguments: tuple[str, ...], on_hand: int) -> None:
    """ADD, SUBTRACT and SET change the stock on hand, and the ledger keeps who and why."""
    answer = json.loads(
        inventory("adjust", "apple", *arguments, "--reason", "count", "--operator", "ann", "--json").stdout
    )
    assert ("applied", on_hand) == (answer["outcome"], answer["stock"]["on_hand"])
    newest = shown("history", "apple")[0]
    assert ("ADJUST", "ann", "count", "MANUAL") == tuple(
        newest[name] for name in ("type", "operator", "reason", "reference_type")
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("adjust", "nothing", "--add", "1", "--reason", "x"), "there is no product nothing"),
        (("adjust", "apple", "--set", "3", "--reason", "x"), "3 on hand would be less than 4 reserved"),
        (
            ("adjust", "apple", "--set", "30", "--expected-version", "1", "--reason", "x"),
            "expected version 1, found 2",
        ),
        (("threshold", "nothing", "3"), "there is no product nothing"),
    ],
)
def test_a_refusal_says_why(arguments: tuple[str, ...], words: str) -> None:
    """A refused change is exit code 1 with the reason in words, and nothing moved."""
    before = shown("show")
    result = inventory(*arguments)
    assert (1, True) == (result.exit_code, words in result.stderr)
    assert before == shown("show")


def test_set_with_the_expected_version_is_compare_and_set() -> None:
    """The version shown is the one to expect."""
    assert 0 == inventory("adjust", "apple", "--set", "30", "--expected-version", "2", "--reason", "x").exit_code


@pytest.mark.parametrize(
    "arguments",
    [
        ("adjust", "apple", "--reason", "x"),
        ("adjust", "apple", "--add", "1", "--set", "2", "--reason", "x"),
        ("adjust", "apple", "--add", "1", "--expected-version", "1", "--reason", "x"),
        ("adjust", "apple", "--add", "0", "--reason", "x"),
        ("adjust", "apple", "--add", "1"),
        ("threshold", "apple", "-1"),
        ("adjust", "x" * 257, "--add", "1", "--reason", "x"),
    ],
)
def test_wrong_use_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    """What cannot be meant is refused before anything is asked."""
    assert 2 == inventory(*arguments).exit_code


def test_a_threshold_is_judged_at_once() -> None:
    """A product whose threshold rises above its stock is low from then on."""
    inventory("threshold", "apple", "46")
    assert "low" == shown("show", "apple")[0]["stock_status"]


def test_a_change_reaches_the_cache(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the cache sees a correction at once."""
    monkeypatch.setenv("INVENTORY_REDIS_URL", redis_url)
    shown("show", "apple", "--from", "cache")
    inventory("adjust", "apple", "--set", "9", "--reason", "count")
    assert 9 == shown("show", "apple", "--from", "cache")[0]["on_hand"]


def test_a_cut_connection_applies_a_change_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that was applied but reported as failed is tried again and suppressed by its identity."""
    from engine.execute import execute  # noqa: PLC0415 - the one that is wrapped

    cuts = 1

    async def cut_after_commit(*arguments: Any, **options: Any) -> Any:
        nonlocal cuts
        report = await execute(*arguments, **options)
        if cuts:
            cuts -= 1
            raise ConnectionResetError("the connection was cut in the commit")
        return report

    monkeypatch.setattr("inventory.stock.adjusting.execute", cut_after_commit)
    monkeypatch.setattr("inventory.stock.adjusting.RETRY_SECONDS", 0.0)
    answer = json.loads(inventory("adjust", "apple", "--add", "5", "--reason", "x", "--json").stdout)
    assert (0, "applied", 55) == (cuts, answer["outcome"], answer["stock"]["on_hand"])


def test_a_retry_with_its_id_is_applied_once() -> None:
    """A repeat changes nothing and reports the first attempt; a refusal stays one; another change is refused."""
    add = ("adjust", "apple", "--add", "5", "--reason", "delivery", "--operator", "ann", "--id", "delivery-7")
    answers = [json.loads(inventory(*add, "--json").stdout) for _ in range(2)]
    assert [("applied", False, 55), ("applied", True, 55)] == [
        (answer["outcome"], answer["repeated"], answer["stock"]["on_hand"]) for answer in answers
    ]
    other = inventory(
        "adjust", "apple", "--add", "6", "--reason", "delivery", "--operator", "ann", "--id", "delivery-7"
    )
    assert (1, True) == (other.exit_code, "the id belongs to another change" in other.stderr)
    take = ("adjust", "bread", "--subtract", "9", "--reason", "lost", "--operator", "ann", "--id", "loss-1")
    assert 1 == inventory(*take).exit_code
    inventory("adjust", "bread", "--add", "9", "--reason", "found")
    again = inventory(*take, "--json")
    answer = json.loads(again.stdout)
    assert (1, "refused", "below_reserved", True) == (
        again.exit_code,
        *(answer[name] for name in ("outcome", "reason", "repeated")),
    )
    assert 14 == answer["stock"]["on_hand"]


@pytest.mark.parametrize("arguments", [("show",), ("adjust", "a", "--add", "1", "--reason", "x"), ("export",)])
def test_a_database_without_tables_says_what_to_do(
    arguments: tuple[str, ...], blank_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clear line instead of a traceback."""
    monkeypatch.setenv("INVENTORY_DATABASE_URL", blank_database_url)
    result = inventory(*arguments)
    assert isinstance(result.exception, OperatorError)
    assert "run `inventory migrate` first" in str(result.exception)


def change_behind_the_cache(url: str) -> None:
    """Take an apple away in a way that the cache cannot see."""

    async def change() -> None:
        connection = await connect(url)
        await connection.execute("UPDATE inventory SET on_hand = 49 WHERE product_id = 'apple'")
        await connection.close()

    asyncio.run(change())
