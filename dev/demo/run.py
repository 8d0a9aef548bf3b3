"""The demo: a simulated shop, the real worker and API on embedded servers, and an audit at the end.

    servers -> tables, topics -> worker, API -> products -> traffic -> drain -> audit -> summary

Exit codes: 0 audit passed; 1 audit failed, an event is unaccounted for, or a program failed; 130 interrupted.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from rich.console import Console
from rich.live import Live

from dev.demo import plain, screen
from dev.demo import shop as scripted_shop
from dev.demo.processes import (
    SETTINGS_IN_WORDS,
    ProgramFailedError,
    ProgramProcess,
    Servers,
    make_token,
    run_audit,
    start_api,
    start_servers,
    start_worker,
    timed,
)
from dev.demo.publisher import Publisher, open_publisher
from dev.demo.requests import CartClient, open_cart_client
from dev.demo.state import Alert, DemoState
from dev.demo.watch import MetricsWatch, TableWatch, TopicWatch
from dev.servers.errors import ServersError
from dev.servers.process import LOOPBACK
from inventory.errors import OperatorError
from schemas.topics import TOPICS_IN, TOPICS_OUT, TOPICS_STATE, dlq_topic
from storage.migrate import upgrade

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130
FRAME_SECONDS: Final = 0.2
LINE_SECONDS: Final = 1.0
CANCEL_SECONDS: Final = 1.0
DRAIN_SECONDS: Final = 30.0
DRAIN_POLL_SECONDS: Final = 0.05

# For a shell with the exports that --keep prints.
_CURL: Final = 'curl -H "Authorization: Bearer $TOKEN"'
_CART: Final = '{"items": [{"product_id": "mug-blue", "quantity": 1}], "expires_in_minutes": 20}'
LINES_TO_PASTE: Final = (
    f"{_CURL} $API/mug-blue",
    f"{_CURL} $API/reserve/cart -H 'Content-Type: application/json' -d '{_CART}'",
    f'{_CURL} "$API/mug-blue/transactions?limit=3"',
)

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Options:
    """The shop's seed, duration and rate; `keep` leaves the servers up afterwards."""

    seed: int
    seconds: float
    rate: float
    keep: bool


def run(options: Options) -> int:
    """Run the demo and return the exit code; raises OperatorError if the servers cannot be started."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        return asyncio.run(_Demo(options, console).run())
    except ProgramFailedError as error:
        console.print(f"demo: {error}", markup=False)
        return EXIT_FAILED
    except ServersError as error:
        raise OperatorError(str(error)) from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("demo: interrupted; servers, worker and API are stopped")
        return EXIT_INTERRUPTED


class _Demo:
    """One run of the demo."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options = options
        self._console = console
        self._on_screen = _can_draw_on(console)
        self._state = DemoState(options.seed, options.seconds)

    async def run(self) -> int:
        """Start everything, run the shop, audit, and print the summary."""
        _cancel_on_sigterm()
        async with AsyncExitStack() as stack:
            servers = await start_servers(stack, self._say)
            with timed(self._say, "tables migrated"):
                await asyncio.to_thread(upgrade, servers.database_url)
            shop = await stack.enter_async_context(open_publisher(servers.bootstrap_servers, self._state))
            topics = [*TOPICS_IN, *TOPICS_OUT, *TOPICS_STATE, *map(dlq_topic, TOPICS_IN)]
            with timed(self._say, f"{len(topics)} topics"):
                await shop.create_topics(topics)
            programs = _Programs(start_worker(servers), *start_api(servers))
            for program in (programs.worker, programs.api):
                stack.push_async_callback(program.end)
            problems = await self._run_shop(servers, programs, shop)
            audit_passed, report = await run_audit(servers)
            self._print_summary(problems, "" if audit_passed else report)
            if self._options.keep:
                await self._keep(servers, programs, "passed" if audit_passed else "failed")
            await programs.api.stop()
            await programs.worker.stop()
        if problems or not audit_passed:
            return EXIT_FAILED
        if not self._options.keep:
            self._say("To call the API or the worker yourself: make demo DEMO_ARGS=--keep\n")
        self._say("audit: ok")
        return 0

    async def _run_shop(self, servers: Servers, programs: "_Programs", shop: Publisher) -> list[str]:
        """Run the shop until everything it published is handled; returns what is not accounted for."""
        state, options, worker, api = self._state, self._options, programs.worker, programs.api
        metrics = MetricsWatch(worker.port, state)
        topics = TopicWatch(servers.bootstrap_servers, state, shop.pop_age, self._on_alert)
        with timed(self._say, f"the worker and the API, processes {worker.pid} and {api.pid}"):
            token, *_ = await asyncio.gather(
                make_token(servers, "storefront", "service"), worker.wait_until_ready(), api.wait_until_ready()
            )
        async with (
            open_cart_client(programs.url, token, api, state) as carts,
            contextlib.aclosing(await TableWatch.connect(servers.database_url, state)) as tables,
        ):
            watches = (worker.watch, api.watch, topics.run, tables.run, metrics.run)
            with timed(self._say, f"{len(scripted_shop.products(options.rate))} products"):
                await _alongside(shop.publish(scripted_shop.opening(options.rate)), *watches[:2])
            pace = f"{options.seconds:.0f} s at about {options.rate:,.0f} events/s"
            self._say(f"\nseed {options.seed}, {pace}; {SETTINGS_IN_WORDS}\n")
            return await _alongside(self._open(shop, carts), *watches, self._show)

    async def _open(self, shop: Publisher, carts: CartClient) -> list[str]:
        """Publish the shop's events, before and after which the worker must have handled everything."""
        state, options = self._state, self._options
        if not await _drained(state):
            return _problems(state)
        state.open()
        await shop.publish(scripted_shop.script(options.seed, options.seconds, options.rate), carts)
        state.closed = True
        await _drained(state)
        return _problems(state)

    # --- what people see ------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def _on_alert(self, alert: Alert) -> None:
        if not self._on_screen:
            self._say(plain.alert_line(alert))

    async def _show(self) -> None:
        """Show the state until cancelled: on the full terminal, or as a line a second."""
        if not self._on_screen:
            while True:
                await asyncio.sleep(LINE_SECONDS)
                self._say(plain.progress_line(self._state))
        with Live(console=self._console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(screen.draw(self._state, *self._console.size), refresh=True)
                await asyncio.sleep(FRAME_SECONDS)

    def _print_summary(self, problems: Sequence[str], audit_report: str) -> None:
        """Print the summary, and what is wrong."""
        if not self._on_screen:
            self._say("")
        for line in plain.summary(self._state):
            self._say(line)
        self._say("")
        for line in (*problems, audit_report):
            if line:
                self._say(line)

    async def _keep(self, servers: Servers, programs: "_Programs", audit: str) -> None:
        """Keep everything running until Ctrl-C, and print how to use it."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        self._say(f"Audit {audit}. Servers, worker and API run until Ctrl-C; in another terminal:\n")
        token = await make_token(servers, "ann", "admin")
        for name, value in {**servers.variables(), "API": programs.url, "TOKEN": token}.items():
            self._say(f"  export {name}={value}")
        self._say("  inventory audit        (also: inventory stock show, inventory dlq list)\n")
        self._say("Over HTTP: a product, a cart that holds one of it for 20 minutes, and the product's ledger:\n")
        for line in LINES_TO_PASTE:
            self._say(f"  {line}")
        worker, api = programs.worker, programs.api
        self._say(f"\nmetrics: http://{LOOPBACK}:{worker.port}/metrics, the API's http://{LOOPBACK}:{api.port}/metrics")
        self._say(f"worker's log: {worker.log}\nAPI's log: {api.log}\n")
        await _alongside(stopped.wait(), worker.watch, api.watch)


class _Programs(NamedTuple):
    """The running worker and API, and the API's URL."""

    worker: ProgramProcess
    api: ProgramProcess
    url: str


async def _alongside(work: Coroutine[Any, Any, _Result], *watches: Callable[[], Coroutine[Any, Any, None]]) -> _Result:
    """Return what `work` returns; the watches run concurrently, and an error of one of them ends it."""
    task = asyncio.create_task(work)
    tasks: list[asyncio.Task[Any]] = [task, *(asyncio.create_task(watch()) for watch in watches)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for finished in done:
            finished.result()
        return task.result()
    finally:
        pending = set(tasks)
        while pending:
            # Repeatedly: a client library may swallow a cancellation that arrives at the wrong moment.
            for other in pending:
                other.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_SECONDS)
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drained(state: DemoState) -> bool:
    """Wait until the worker has handled everything and all that it published has been read; false on time-out."""
    # The poll that is running may have begun before the last acknowledgement.
    fresh = state.polls + 2
    for _ in range(round(DRAIN_SECONDS / DRAIN_POLL_SECONDS)):
        if state.polls >= fresh and state.is_done():
            return True
        await asyncio.sleep(DRAIN_POLL_SECONDS)
    return False


def _problems(state: DemoState) -> list[str]:
    """Return what is unaccounted for; the audit reports the rest."""
    if state.is_done():
        return []
    published, handled = sum(state.published.values()), sum(state.dispositions.values())
    requests, answers = sum(state.requests.values()), sum(state.answers.values())
    seen = f"{published:,} published, {handled:,} handled; {requests:,} requests, {answers:,} answered"
    seen += f"; {state.written:,} outgoing written, {state.read:,} read"
    waiting = f"lag {state.lag:,}, outbox {state.outbox:,}"
    return [f"demo: not everything was handled within {DRAIN_SECONDS:.0f} s: {seen}; {waiting}"]


def _can_draw_on(console: Console) -> bool:
    """Tell whether the console is a terminal that is large and capable enough, and drawing is allowed."""
    wanted = not any(os.environ.get(name) for name in ("NO_COLOR", "CI"))
    roomy = console.width >= screen.NARROWEST and console.height >= screen.LOWEST
    return wanted and roomy and console.is_terminal and not console.is_dumb_terminal and console.encoding == "utf-8"


def _cancel_on_sigterm() -> None:
    """Let SIGTERM clean up as Ctrl-C does."""
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("must be called from a task")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
