"""The demo: a lively shop, the real worker on embedded servers, and at the end an audit of the books.

    servers -> tables, topics -> worker -> products -> the shop, watched -> drained -> audit -> summary

Exit codes: 0 the books agree; 1 they do not, or an event is not accounted for, or the worker failed; 130 interrupted.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from rich.console import Console
from rich.live import Live

from dev.demo import plain, screen
from dev.demo import shop as scripted_shop
from dev.demo.processes import (
    SETTINGS_IN_WORDS,
    Servers,
    WorkerFailedError,
    WorkerProcess,
    run_audit,
    start_servers,
    timed,
)
from dev.demo.publisher import Publisher, open_publisher
from dev.demo.state import Alert, DemoState
from dev.demo.watch import MetricsWatch, TableWatch, TopicWatch
from dev.servers.errors import ServersError
from dev.servers.process import LOOPBACK
from inventory.errors import OperatorError
from schemas.topics import TOPICS_IN, TOPICS_OUT, dlq_topic
from storage.migrate import upgrade

EXIT_FOUND_WRONG: Final = 1
EXIT_INTERRUPTED: Final = 130
FRAME_SECONDS: Final = 0.2
LINE_SECONDS: Final = 1.0
CANCEL_SECONDS: Final = 1.0
DRAIN_SECONDS: Final = 30.0
DRAIN_POLL_SECONDS: Final = 0.05

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Options:
    """What the shop is like, and whether the servers stay up afterwards."""

    seed: int
    seconds: float
    rate: float
    keep: bool


def run(options: Options) -> int:
    """Run the demo and return the exit code; raises OperatorError when the servers cannot be started."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        return asyncio.run(_Demo(options, console).run())
    except WorkerFailedError as error:
        console.print(f"demo: {error}", markup=False)
        return EXIT_FOUND_WRONG
    except ServersError as error:
        raise OperatorError(str(error)) from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("demo: interrupted; servers and worker are gone")
        return EXIT_INTERRUPTED


class _Demo:
    """One run of the demo."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options = options
        self._console = console
        self._on_screen = _is_for_people(console)
        self._state = DemoState(options.seed, options.seconds)

    async def run(self) -> int:
        """Set up, play, look at the books, tell."""
        _cancel_on_sigterm()
        async with AsyncExitStack() as stack:
            servers = await start_servers(stack, self._say)
            with timed(self._say, "tables migrated"):
                await asyncio.to_thread(upgrade, servers.database_url)
            shop = await stack.enter_async_context(open_publisher(servers.bootstrap_servers, self._state))
            topics = [*TOPICS_IN, *TOPICS_OUT, *map(dlq_topic, TOPICS_IN)]
            with timed(self._say, f"{len(topics)} topics"):
                await shop.name_topics(topics)
            worker = WorkerProcess(servers)
            stack.push_async_callback(worker.end)
            problems = await self._play(servers, worker, shop)
            books_agree, report = await run_audit(servers)
            self._tell(problems, "" if books_agree else report)
            if self._options.keep:
                await self._keep(servers, worker, "agree" if books_agree else "do not agree")
            await worker.leave()
        if problems or not books_agree:
            return EXIT_FOUND_WRONG
        self._say("audit: ok")
        return 0

    async def _play(self, servers: Servers, worker: WorkerProcess, shop: Publisher) -> list[str]:
        """Open the shop and wait until all it published is done; returns what is not accounted for."""
        state, options = self._state, self._options
        metrics = MetricsWatch(worker.port, state)
        topics = TopicWatch(servers.bootstrap_servers, state, shop.answered, self._on_alert)
        with timed(self._say, f"the worker: `inventory run`, process {worker.pid}"):
            await worker.wait_until_ready(metrics.ready)
        async with contextlib.aclosing(await TableWatch.connect(servers.database_url, state)) as tables:
            watches = (worker.watch, topics.run, tables.run, metrics.run)
            with timed(self._say, f"{len(scripted_shop.products(options.rate))} products"):
                await _beside(shop.publish(scripted_shop.opening(options.rate)), *watches[:1])
            self._say(f"\nseed {options.seed}, about {options.rate:,.0f} events/s; {SETTINGS_IN_WORDS}\n")
            return await _beside(self._open(shop), *watches, self._show)

    async def _open(self, shop: Publisher) -> list[str]:
        """Let the worker read the products, open the shop, and wait until the worker and we have seen it all."""
        state, options = self._state, self._options
        if not await _drained(state):
            return _problems(state)
        state.open()
        await shop.publish(scripted_shop.script(options.seed, options.seconds, options.rate))
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
        """Show the state for as long as the task lives: on the whole terminal, or a line a second."""
        if not self._on_screen:
            while True:
                await asyncio.sleep(LINE_SECONDS)
                self._say(plain.progress_line(self._state))
        with Live(console=self._console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(screen.draw(self._state, *self._console.size), refresh=True)
                await asyncio.sleep(FRAME_SECONDS)

    def _tell(self, problems: Sequence[str], audit_report: str) -> None:
        """Say what happened, and then what is wrong with it."""
        if not self._on_screen:
            self._say("")
        for line in plain.summary(self._state):
            self._say(line)
        self._say("")
        for line in (*problems, audit_report):
            if line:
                self._say(line)

    async def _keep(self, servers: Servers, worker: WorkerProcess, books: str) -> None:
        """Leave everything running until Ctrl-C, and say how to reach it."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        self._say(f"The books {books}. Servers and worker stay until Ctrl-C; in another terminal:\n")
        for name, value in servers.variables().items():
            self._say(f"  export {name}={value}")
        self._say("  inventory audit        (also: inventory stock show, inventory dlq list)\n")
        self._say(f"metrics: http://{LOOPBACK}:{worker.port}/metrics\nworker's log: {worker.log}\n")
        await _beside(stopped.wait(), worker.watch)


async def _beside(work: Coroutine[Any, Any, _Result], *watches: Callable[[], Coroutine[Any, Any, None]]) -> _Result:
    """Return what `work` returns; the watches run beside it, and what one of them raises ends it."""
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
            # Again and again: a client library may swallow a cancellation that meets it at the wrong moment.
            for other in pending:
                other.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_SECONDS)
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drained(state: DemoState) -> bool:
    """Wait until the worker has handled all, told all, and we have read all that it told."""
    # The look at the tables that is under way may have begun before the last acknowledgement.
    fresh = state.polls + 2
    for _ in range(round(DRAIN_SECONDS / DRAIN_POLL_SECONDS)):
        if state.polls >= fresh and state.is_done():
            return True
        await asyncio.sleep(DRAIN_POLL_SECONDS)
    return False


def _problems(state: DemoState) -> list[str]:
    """Return what is not as it should be, other than the books."""
    if state.is_done():
        return []
    published, judged = sum(state.published.values()), sum(state.dispositions.values())
    seen = f"{published:,} published, {judged:,} handled, {state.written:,} told, {state.read:,} read"
    waiting = f"lag {state.lag:,}, outbox {state.outbox:,}"
    return [f"demo: not everything is accounted for after {DRAIN_SECONDS:.0f} s: {seen}; {waiting}"]


def _is_for_people(console: Console) -> bool:
    """Tell whether there is a terminal that can and may be drawn on."""
    wanted = not any(os.environ.get(name) for name in ("NO_COLOR", "CI"))
    roomy = console.width >= screen.NARROWEST and console.height >= screen.LOWEST
    return wanted and roomy and console.is_terminal and not console.is_dumb_terminal and console.encoding == "utf-8"


def _cancel_on_sigterm() -> None:
    """Let a plain kill leave the terminal and the machine as clean as Ctrl-C does."""
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("runs in a task")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
