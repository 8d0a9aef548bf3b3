"""Results do not depend on how a stream was cut into batches, nor on repeats; and they are what the oracle says."""

import asyncio
import dataclasses
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from api.app import serve_app
from api.auth import Authenticator, Role
from api.gather import Gatherer
from api.keys import FixedKeys, secret_key
from api.problems import ProblemError
from dev.oracle.shop import Shop as OracleShop
from dev.oracle.verdicts import Verdict as OracleVerdict
from dev.servers.postgres import PostgresServer
from engine.tasks import EventTask, RequestTask, Verdict
from storage.database import Pool, open_pool
from tests.integration.api_shop import PREFIX, RULES, SECRET, services_for, token
from tests.integration.shop import (
    POLICY,
    T0,
    Published,
    Shop,
    adjusted,
    batches,
    cancelled,
    cart,
    created,
    items,
    paid,
    picture,
    problems,
    product,
    refunded,
    task,
)

LOW_WATERMARK = T0 - timedelta(minutes=10)
# The last is known only at the end of a stream, the others are scarce.
PRODUCTS = ("p", "q", "p", "q", "r")
TABLES = "inventory, orders, carts, inbox, outbox, dead_letters, parked_events, stream_progress, http_answers"
# The clock of every request: after some of the events, a little before others, and far before the last.
NOW = T0 + timedelta(minutes=1.5)

_lines = st.dictionaries(st.sampled_from(PRODUCTS), st.integers(1, 3), min_size=1, max_size=2)
# Some are so old that their holds are due by the stream's clock from the start.
_minutes = st.sampled_from((-60, -50, -45, 0, 1, 2, 3))
_names = st.sampled_from(("1", "2", "3", "4", "5", "6"))


@st.composite
def _events(draw: st.DrawFn) -> Published:  # noqa: PLR0911 - one return a topic
    """One event of a small shop in which much goes wrong; its content follows from its id, unless it is a bug."""
    kind = draw(
        st.sampled_from(("created",) * 4 + ("paid",) * 3 + ("cart",) * 3 + ("cancelled", "part", "refund", "adjust"))
    )
    name, minutes = draw(_names), draw(_minutes)
    number = draw(st.integers(0, 99))
    match kind:
        case "created":
            linked = draw(st.sampled_from(({}, {"cart_id": f"c{name}"})))
            return created(f"o{name}", draw(_lines), minutes, **linked) | {"id": f"created-{name}-{number % 2}"}
        case "paid":
            return paid(f"o{name}", minutes, f"paid-{name}-{number % 2}")
        case "cancelled":
            return cancelled(f"o{name}", minutes)
        case "part":
            part = cancelled(f"o{name}", minutes, {draw(st.sampled_from(PRODUCTS)): 1}) | {"id": f"part-{number}"}
            return part | {"data": part["data"] | draw(st.sampled_from(({}, {"cancellation_id": f"c{number % 3}"})))}
        case "refund":
            lines = {draw(st.sampled_from(PRODUCTS)): 1}
            how = {"restock": draw(st.booleans()), "returned": draw(st.booleans()), "refund_id": f"r{number % 3}"}
            refund = refunded(f"o{name}", lines, minutes, **how)
            return refund | {"id": f"refund-{name}-{number}"}
        case "cart":
            lines = draw(st.one_of(_lines, st.just({})))
            return cart(f"c{name}", lines, minutes) | {"id": f"cart-{number}"}
        case _:
            operation = draw(st.sampled_from(("ADD", "SUBTRACT", "SET")))
            return adjusted(draw(st.sampled_from(PRODUCTS)), operation, number % 9 + 1, f"adjust-{number}")


@st.composite
def _streams(draw: st.DrawFn) -> list[Published]:
    """A stream with repeats sprinkled in, each somewhere behind its first."""
    stream = draw(st.lists(_events(), min_size=12, max_size=40))
    for _ in range(draw(st.integers(0, 5))):
        position = draw(st.integers(0, len(stream) - 1))
        stream.insert(draw(st.integers(position + 1, len(stream))), stream[position])
    return [product("p", 4, 2), product("q", 3), *stream, product("r", 5, 1)]


class Sent(NamedTuple):
    """A request as a client sends it, with its token's subject and role."""

    method: str
    path: str
    body: dict[str, Any] | None
    headers: tuple[tuple[str, str], ...]
    subject: str
    role: Role


@st.composite
def _requests(draw: st.DrawFn) -> Sent:
    """One request about the same carts and orders: by the till for anybody, by ann or bob for themselves."""
    name = draw(_names)
    subject, role = draw(st.sampled_from((("till", Role.SERVICE), ("ann", Role.USER), ("bob", Role.USER))))
    headers = (("Idempotency-Key", f"key-{draw(st.integers(0, 30))}"),) if draw(st.booleans()) else ()
    method = "POST"
    body: dict[str, Any] | None = None
    match draw(st.sampled_from(("cart",) * 4 + ("order",) * 4 + ("deduct",) * 3 + ("extend", "release", "cancel"))):
        case "cart":
            path = "/reserve/cart"
            body = {"cart_id": f"c{name}", "items": items(**draw(st.one_of(_lines, st.just({}))))}
            body |= {"partial": draw(st.booleans())} | draw(st.sampled_from(({}, {"expires_in_minutes": 5})))
        case "extend":
            path, body = "/reserve/cart/extend", {"cart_id": f"c{name}", "expires_in_minutes": 60}
        case "release":
            method, path = "DELETE", f"/reserve/cart?cart_id=c{name}"
        case "order":
            path, body = "/reserve/order", {"order_id": f"o{name}", "items": items(**draw(_lines))}
            body |= draw(st.sampled_from(({}, {"cart_id": f"c{name}"})))
        case "cancel":
            method, path = "DELETE", f"/reserve/order/o{name}"
        case _:
            path, body = "/deduct", {"order_id": f"o{name}"}
            subject, role, headers = "till", Role.SERVICE, (("Idempotency-Key", f"paid-{name}"),)
    return Sent(method, path, body, headers, subject, role)


@st.composite
def _corrections(draw: st.DrawFn) -> Sent:
    """One request of an admin, about the stock on hand or the threshold."""
    product_id = draw(st.sampled_from(PRODUCTS))
    operation = draw(st.sampled_from(("ADD", "SUBTRACT", "SET")))
    line = {"operation": operation, "quantity": draw(st.integers(1, 9)), "reason": "count"}
    headers = [("Idempotency-Key", f"correction-{draw(st.integers(0, 30))}")]
    method, path, body = "PUT", f"/{product_id}/adjust", line
    match draw(st.sampled_from(("adjust", "threshold", "batch"))):
        case "threshold":
            path, body = f"/{product_id}/threshold", {"low_stock_threshold": draw(st.integers(0, 5))}
        case "batch":
            lines = [line | {"product_id": name, "expected_version": None} for name in (product_id, "p", "new")]
            method, path = "POST", "/batch/adjust"
            body = {"mode": draw(st.sampled_from(("all", "each"))), "adjustments": lines}
        case _ if operation == "SET":
            headers.append(("If-Match", draw(st.sampled_from(("*", '"2"', '"3"')))))
    return Sent(method, path, body, tuple(headers), "root", Role.ADMIN)


@st.composite
def _mixed_streams(draw: st.DrawFn) -> list[Published | Sent]:
    """A stream of events and requests, with repeats of both behind their firsts."""
    stream: list[Published | Sent] = draw(
        st.lists(st.one_of(_events(), _requests(), _corrections()), min_size=12, max_size=40)
    )
    for _ in range(draw(st.integers(0, 5))):
        position = draw(st.integers(0, len(stream) - 1))
        stream.insert(draw(st.integers(position + 1, len(stream))), stream[position])
    return [product("p", 4, 2), product("q", 3), *stream, product("r", 5, 1)]


class _Recorder(Gatherer):
    """Keeps the task that the API makes of a request in place of applying it."""

    def __init__(self) -> None:
        self.tasks: list[RequestTask] = []

    @override
    async def apply(self, task: RequestTask) -> Verdict:
        self.tasks.append(task)
        raise ProblemError("overloaded", "recorded")


def _first_of_each(stream: list[Published]) -> list[Published]:
    """Return the stream without what the inbox stops: repeats, and ids with other content."""
    first: dict[tuple[str, str], Published] = {}
    for one in stream:
        first.setdefault((one["source"], one["id"]), one)
    return list(first.values())


class _Bench:
    """A database that is emptied for each example; making one each time would take the minute that we have."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.pool: Pool = self.run(open_pool, url, 2)
        self._recorder = _Recorder()
        services = dataclasses.replace(services_for(self.pool, bytes(32)), gatherer=self._recorder)
        self._app = serve_app(services, Authenticator(FixedKeys([secret_key(SECRET)]), RULES))

    async def task_of(self, sent: Sent) -> RequestTask:
        """Return the task that the API makes of a request."""
        headers = {**dict(sent.headers), "Authorization": f"Bearer {token(sent.subject, sent.role)}"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://api") as client:
            answer = await client.request(sent.method, PREFIX + sent.path, json=sent.body, headers=headers)
        assert self._recorder.tasks, answer.text
        return self._recorder.tasks.pop()

    async def tasks_of(self, stream: Sequence[Published | Sent]) -> list[EventTask | RequestTask]:
        """Return a task for each; repeats of a request have one task, so that keys made up by the API are the same."""
        made: dict[int, RequestTask] = {}
        for one in stream:
            if isinstance(one, Sent) and id(one) not in made:
                made[id(one)] = await self.task_of(one)
        return [made[id(one)] if isinstance(one, Sent) else task(one) for one in stream]

    async def outcome_of_tasks(
        self, cut: list[list[EventTask | RequestTask]]
    ) -> tuple[dict[str, Any], list[list[Verdict]]]:
        """Apply the batches to an empty shop; return its picture and the verdicts, the answers in them."""
        shop = await self._empty_shop()
        verdicts = [list((await shop.run(batch)).verdicts) for batch in cut]
        assert [] == await problems(self.pool)
        return await picture(self.pool), verdicts

    def run(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return self.loop.run_until_complete(function(*args))

    async def outcome(self, cut: list[list[Published]]) -> tuple[dict[str, Any], list[list[str]]]:
        """Apply the batches to an empty shop; return its picture and what became of each event."""
        shop = await self._empty_shop()
        outcomes = [await shop.apply(*batch) for batch in cut]
        assert [] == await problems(self.pool)
        return await picture(self.pool), outcomes

    async def _empty_shop(self) -> Shop:
        async with self.pool.acquire() as connection:
            # The ledger refuses TRUNCATE, and that is tested elsewhere.
            await connection.execute(
                "SET session_replication_role = replica;"
                f"TRUNCATE inventory_transactions, {TABLES};"
                "SET session_replication_role = origin"
            )
        shop = Shop(self.pool, POLICY)
        await shop.read_up_to(LOW_WATERMARK)
        return shop

    def close(self) -> None:
        self.run(self.pool.close)
        self.loop.close()


@pytest.fixture(scope="module")
def bench(postgres: PostgresServer, template_database: str) -> Iterator[_Bench]:
    """One database for all examples."""
    postgres.sql(f"CREATE DATABASE invariance TEMPLATE {template_database}")
    opened = _Bench(postgres.database_url("invariance"))
    yield opened
    opened.close()
    postgres.sql("DROP DATABASE invariance WITH (FORCE)")


_LENIENT = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=25, suppress_health_check=_LENIENT)
@given(stream=_streams(), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_any_cut_ends_in_the_same_state(bench: _Bench, stream: list[Published], cuts: list[int]) -> None:
    """One batch, one event a batch and any cut between have the same state, ledger, inbox and outgoing events."""
    whole, outcomes = bench.run(bench.outcome, [stream])
    single, outcomes_single = bench.run(bench.outcome, [[one] for one in stream])
    some, _ = bench.run(bench.outcome, batches(stream, cuts))
    event(f"expired: {'expired' in str(whole['outgoing'])}")
    assert whole == single
    assert whole == some
    assert outcomes[0] == [outcome for one in outcomes_single for outcome in one]


@settings(max_examples=25, suppress_health_check=_LENIENT)
@given(stream=_mixed_streams(), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_requests_among_events_end_alike_in_any_cut(
    bench: _Bench, stream: list[Published | Sent], cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one clock for all requests, state, ledger, outgoing events and every answer are the same in any cut."""

    async def noon(_connection: object) -> datetime:
        return NOW

    monkeypatch.setattr("storage.load.clock", noon)
    tasks = bench.run(bench.tasks_of, stream)
    whole, verdicts = bench.run(bench.outcome_of_tasks, [tasks])
    single, verdicts_single = bench.run(bench.outcome_of_tasks, [[one] for one in tasks])
    some, _ = bench.run(bench.outcome_of_tasks, batches(tasks, cuts))
    for verdict in verdicts[0]:
        event(f"answer {verdict.answer.status}" if verdict.answer else "no answer")
    assert whole == single
    assert whole == some
    assert verdicts[0] == [verdict for one in verdicts_single for verdict in one]


@settings(max_examples=40, suppress_health_check=_LENIENT)
@given(stream=_streams(), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_the_end_is_what_the_oracle_says(bench: _Bench, stream: list[Published], cuts: list[int]) -> None:
    """Stock, ledger sums, order statuses, holds of carts and everything published agree with the independent model."""
    found, _ = bench.run(bench.outcome, batches(stream, cuts))
    model = OracleShop(suppress_repeats=True)
    verdicts = [model.apply(one, LOW_WATERMARK) for one in _first_of_each(stream)]
    assert _stock(model) == {row[0]: (row[1], row[2], row[7]) for row in found["inventory"]}
    statuses = {order_id: order.status for order_id, order in model.orders.items()}
    assert statuses == {row[0]: row[1] for row in found["orders"]}
    assert _ledger(model) == _sums(found["ledger"])
    assert _published_by(verdicts) == Counter((row[4].rpartition(".")[2], row[0]) for row in found["outgoing"])


def test_a_thousand_events_cut_at_random_are_the_same(bench: _Bench) -> None:
    """A longer stream than Hypothesis would draw, by one seed."""
    dice = random.Random(7)  # noqa: S311 - reproducible, no secret
    stream = [product(f"p{number}", 40, 5) for number in range(20)]
    for number in range(330):
        lines = {f"p{dice.randrange(20)}": dice.randint(1, 4) for _ in range(3)}
        order = [created(f"o{number}", lines, number / 60), paid(f"o{number}", number / 60), paid(f"o{number}", 9)]
        dice.shuffle(order)
        stream += order
    whole, _ = bench.run(bench.outcome, [stream])
    some, _ = bench.run(bench.outcome, batches(stream, [dice.randrange(1000) for _ in range(9)]))
    assert whole == some
    assert 330 == len(whole["orders"])


def _stock(model: OracleShop) -> dict[str, tuple[int, int, int]]:
    return {name: (product.on_hand, product.reserved, product.entries) for name, product in model.products.items()}


def _ledger(model: OracleShop) -> dict[tuple[str, str], int]:
    return {(name, kind): n for name, product in model.products.items() for kind, n in product.ledger.items() if n}


def _sums(ledger: list[tuple[Any, ...]]) -> dict[tuple[str, str], int]:
    sums: Counter[tuple[str, str]] = Counter()
    for product_id, _, kind, quantity, on_hand_before, on_hand_after, *_ in ledger:
        sums[product_id, kind] += on_hand_after - on_hand_before if kind == "ADJUST" else quantity
    return {key: n for key, n in sums.items() if n}


def _published_by(verdicts: list[OracleVerdict]) -> Counter[tuple[str, str]]:
    published: Counter[tuple[str, str]] = Counter()
    for verdict in verdicts:
        for one in (*verdict.expired, verdict):
            published.update((outcome.kind, outcome.owner[1]) for outcome in one.outcomes)
            published.update(("back_in_stock", product_id) for product_id in one.back_in_stock)
            published.update(
                ("stock_recovered" if edge.severity == "ok" else "low_stock", edge.product_id) for edge in one.edges
            )
    return published
