"""The program `inventory run` as an operator sees it: how it starts, reports its health, and stops."""

import asyncio
import re
import signal
import socket
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from dev.servers.kafka import Broker
from inventory.settings import Settings
from storage.database import connect
from tests.integration.program import running
from tests.integration.shop import created, open_shop, product
from tests.integration.stream import dated, eventually, now_plus, producing, read, settings_for


@pytest.fixture
def settings(kafka: Broker, topics: str, database_url: str) -> Settings:
    """The settings of a worker whose servers are all available."""
    return settings_for(kafka.bootstrap_servers, topics, database_url)


async def test_it_works_and_stops_in_order(settings: Settings) -> None:
    """Its endpoints answer, events are applied, and SIGTERM ends it with 0, everything committed and published."""
    async with (
        open_shop(settings.database_url) as shop,
        producing(settings.kafka_bootstrap_servers, settings.kafka_topic_prefix) as producer,
        running(settings) as program,
    ):
        await shop.apply(product("p", 100))
        port = await program.port()
        await eventually(lambda: _answers(port, "readyz"))
        assert (200, "ok\n") == await _get(port, "livez")
        await producer.send(*dated((created(f"o{number}", {"p": 1}) for number in range(30)), now_plus(0)))

        async def applied() -> bool:
            return await shop.stock("p") == (100, 30)

        await eventually(applied)
        _, page = await _get(port, "metrics")
        count = r'inventory_events_total\{outcome="applied",topic="order.created",type="order.created"\} (\d+)'
        found = re.search(count, page)
        assert found is not None
        assert 30 == int(found.group(1))
        program.process.send_signal(signal.SIGTERM)
        assert 0 == await program.exit_code(), program.lines
        # A new broker may have no group coordinator yet: aiokafka logs an error and tries again.
        assert not [line for line in program.lines if "Traceback" in line or " critical " in line]
        assert [] == await shop.rows("SELECT position FROM outbox WHERE published_at IS NULL")
    topic = settings.kafka_topic_prefix + "inventory.reservations"
    assert 30 == len(await read(settings.kafka_bootstrap_servers, topic, 30))


@pytest.mark.parametrize("separator", [",", " , "])
async def test_every_command_takes_lists_of_servers(
    real_kafka: Broker, topics: str, database_url: str, tmp_path: Path, separator: str
) -> None:
    """Each list names a dead server and a live one; topics are created, a worker runs, a history goes through it."""
    settings = settings_for(real_kafka.bootstrap_servers, topics, database_url)
    listed = {
        "INVENTORY_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:1{separator}{real_kafka.bootstrap_servers}",
        "INVENTORY_DATABASE_URL": re.sub(r"@([^/]+)/", r"@127.0.0.1:1,\1/", database_url),
    }
    history = tmp_path / "history.csv"
    history.write_text("InvoiceNo,StockCode,Quantity,InvoiceDate,CustomerID\n1,a,2,2010-12-01T08:00:00Z,9\n")
    async with open_shop(database_url) as shop, running(settings, **listed) as program:
        await program.port()
        for command in (("topics", "create"), ("publish", str(history))):
            async with running(settings, *command, **listed) as other:
                assert 0 == await other.exit_code(), other.lines

        async def sold() -> bool:
            return await shop.stock("a") == (0, 0)

        await eventually(sold)
        program.process.send_signal(signal.SIGTERM)
        assert 0 == await program.exit_code(), program.lines


async def test_a_second_signal_ends_it_at_once(settings: Settings) -> None:
    """A stop that hangs on a locked row is cut short by a second SIGTERM, with 130."""
    async with (
        open_shop(settings.database_url) as shop,
        producing(settings.kafka_bootstrap_servers, settings.kafka_topic_prefix) as producer,
    ):
        await shop.apply(product("p", 100))
        async with shop.pool.acquire() as other, other.transaction():
            await other.execute("SELECT FROM inventory FOR UPDATE")
            async with running(settings) as program:
                await program.port()
                await producer.send(created("o", {"p": 1}))

                async def stuck() -> bool:
                    waits = (
                        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
                    )
                    return bool(await shop.pool.fetch(waits))

                await eventually(stuck)
                program.process.send_signal(signal.SIGTERM)
                await program.said("Stopping")
                program.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(3):
                    assert 130 == await program.process.wait()


async def test_roles_split_the_work(settings: Settings) -> None:
    """A relay alone needs no assignment to be ready, and consumes nothing."""
    async with running(settings, "run", "--roles", "relay") as program:
        port = await program.port()
        assert (200, "ok\n") == await _get(port, "readyz")
        program.process.send_signal(signal.SIGINT)
        assert 0 == await program.exit_code()


async def test_readiness_says_when_the_database_is_gone(settings: Settings) -> None:
    """Without its database a worker is alive, but not ready."""
    async with running(settings) as program:
        port = await program.port()
        await eventually(lambda: _answers(port, "readyz"))
        name = settings.database_url.rpartition("/")[2]
        connection = await connect(settings.database_url.replace(name, "postgres"))
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)

        async def refused() -> tuple[int, str] | None:
            answer = await _get(port, "readyz")
            # An answer from before the loss is served for up to a second.
            return None if answer == (200, "ok\n") else answer

        status, text = await eventually(refused)
        assert (503, True) == (status, "database" in text)
        assert 200 == (await _get(port, "livez"))[0]
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await connection.close()
        await eventually(lambda: _answers(port, "readyz"))
        program.process.send_signal(signal.SIGTERM)
        assert 0 == await program.exit_code(), program.lines


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"INVENTORY_DATABASE_URL": "postgresql://127.0.0.1:1/nothing"}, "PostgreSQL at .* cannot be used"),
        ({"INVENTORY_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, "Kafka at 127.0.0.1:1 cannot be used"),
        ({"INVENTORY_KAFKA_TOPIC_PREFIX": "none."}, "`inventory topics create`"),
        ({"INVENTORY_ORDER_RESERVATION_TTL": "soon"}, "INVENTORY_ORDER_RESERVATION_TTL"),
        ({"INVENTORY_KAFKA_GROP_ID": "x"}, "INVENTORY_KAFKA_GROUP_ID"),
    ],
)
async def test_a_reason_not_to_start_is_one_clear_line(settings: Settings, changes: dict[str, str], line: str) -> None:
    """Wrong settings and missing servers or topics: one line on what to do, exit code 2, no traceback."""
    async with running(settings, **changes) as program:
        code = await program.exit_code()
    assert 2 == code, program.lines
    assert 1 == len(program.lines), program.lines
    assert re.match(f"inventory: .*{line}", program.lines[0]), program.lines


async def test_a_database_that_was_not_migrated_is_one_clear_line(settings: Settings, blank_database_url: str) -> None:
    """For an empty database, the line says to migrate."""
    async with running(settings, INVENTORY_DATABASE_URL=blank_database_url) as program:
        assert 2 == await program.exit_code(), program.lines
    assert ["inventory: the database has no inventory tables: run `inventory migrate` first"] == program.lines


async def test_a_port_that_is_taken_is_one_clear_line(settings: Settings) -> None:
    """A port in use is named, with the setting to change."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with running(settings, INVENTORY_HTTP_PORT=str(taken.getsockname()[1])) as program:
            code = await program.exit_code()
    assert 2 == code, program.lines
    assert "INVENTORY_HTTP_PORT" in program.lines[-1]
    assert not [line for line in program.lines if "Traceback" in line]


async def _get(port: int, path: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()

    return await asyncio.to_thread(get)


async def _answers(port: int, path: str) -> bool:
    return (await _get(port, path))[0] == 200
