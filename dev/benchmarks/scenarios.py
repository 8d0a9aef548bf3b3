"""The scenarios: what is measured and which ratios are reported."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import asyncpg

from dev.benchmarks import programs
from dev.benchmarks.comparison import Bench, Contestant, compare, rehearsed, template_for
from dev.benchmarks.large_database import large_template
from dev.benchmarks.latency import latency
from dev.benchmarks.memory import memory
from dev.benchmarks.relay import relay
from dev.benchmarks.report import Section, ratio
from dev.benchmarks.workload import Workload, churning_carts, flash_sale, life_cycle, real_month

Scenario = Callable[[Bench], Awaitable[Section | None]]


async def life(bench: Bench) -> Section:
    """Orders created, paid and cancelled."""
    workload = life_cycle(bench.sizes.events)
    few = life_cycle(bench.sizes.naive_events, stock=workload.stock)
    about = "orders of 3 lines over 10,000 products (Zipf), paid or cancelled"
    return await _against_both("life", about, bench, workload, few)


async def carts(bench: Bench) -> Section:
    """Carts that are changed and emptied."""
    workload = churning_carts(bench.sizes.cart_events)
    few = churning_carts(bench.sizes.cart_naive_events)
    return await _against_both(
        "carts", "2,000 carts that change all the time, 1 to 5 products each", bench, workload, few
    )


async def hot(bench: Bench) -> Section:
    """A flash sale of one product, and the same demand spread over a thousand."""
    one, many = flash_sale(bench.sizes.hot_events, 1), flash_sale(bench.sizes.hot_events, 1000)
    async with template_for(bench, one) as template_of_one, template_for(bench, many) as template_of_many:
        contestants = (
            Contestant("hot", one, programs.worker(), template=template_of_one),
            Contestant("spread", many, programs.worker(), template=template_of_many),
        )
        figures = await compare(bench, contestants, bench.sizes.rounds)
    about = "a flash sale of one product, nine of ten orders refused; the same over 1,000 products"
    return Section("hot", about, list(figures.values()), {"hot/spread": ratio(figures["hot"], figures["spread"])})


async def csv(bench: Bench) -> Section | None:
    """One month of a real shop at full speed; None if the file is missing."""
    path = bench.data / "online-retail-2010-12.csv.gz"
    if not path.exists():
        return None
    workload = real_month(path)
    async with template_for(bench, workload) as template:
        rehearsal = await rehearsed(bench, workload, template)
        contestants = (
            Contestant("worker", workload, programs.worker(), template=template),
            Contestant("floor", workload, rehearsal=rehearsal, template=template),
        )
        figures = await compare(bench, contestants, bench.sizes.rounds)
    about = f"{workload.events:,} events of a real shop's month, orders of up to 675 lines"
    return Section("csv", about, list(figures.values()), {"worker/floor": ratio(figures["worker"], figures["floor"])})


async def workers(bench: Bench) -> Section:
    """The scenario `life` with one and more workers on the same cores."""
    workload = life_cycle(bench.sizes.workers_events)
    async with template_for(bench, workload) as template:
        contestants = [
            Contestant(
                f"{count} workers" if count > 1 else "1 worker", workload, programs.worker(count), template=template
            )
            for count in bench.sizes.workers
        ]
        figures = list((await compare(bench, contestants, 1)).values())
    ratios = {f"{figure.name}/{figures[0].name}": ratio(figure, figures[0]) for figure in figures[1:]}
    return Section("workers", "the life cycle shared by several processes", figures, ratios)


async def levels(bench: Bench) -> Section:
    """The scenario `life`, with and without what `inventory.levels` costs: the marks, and publishing them."""
    workload = life_cycle(bench.sizes.events)
    async with template_for(bench, workload) as template, _without_marks(bench, template) as unmarked:
        contestants = (
            Contestant("with levels", workload, programs.worker(), template=template),
            Contestant("without", workload, programs.worker(), template=unmarked),
        )
        figures = await compare(bench, contestants, bench.sizes.rounds)
    ratios = {"with/without": ratio(figures["with levels"], figures["without"])}
    return Section("levels", "the life cycle with and without inventory.levels", list(figures.values()), ratios)


@asynccontextmanager
async def _without_marks(bench: Bench, template: str) -> AsyncIterator[str]:
    """Give a copy of a template in which no change is marked, so that no level is ever published."""
    name = f"{template}_unmarked"
    bench.servers.drop_template(name)
    with bench.servers.database(template) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("ALTER TABLE inventory DISABLE TRIGGER USER")
        await connection.close()
        bench.servers.copy(url, name)
    try:
        yield name
    finally:
        bench.servers.drop_template(name)


async def batches(bench: Bench) -> Section:
    """The scenario `life` with different maximum batch sizes."""
    workload = life_cycle(bench.sizes.batches_events)
    async with template_for(bench, workload) as template:
        contestants = [
            Contestant(f"at most {size:,}", workload, programs.worker(batch=size), template=template)
            for size in bench.sizes.batches
        ]
        figures = await compare(bench, contestants, 1)
    return Section("batches", "the life cycle with other values of INVENTORY_BATCH_MAX_RECORDS", list(figures.values()))


async def scale(bench: Bench) -> Section:
    """The same events on an empty and on a large database."""
    sizes = bench.sizes
    stride = max(sizes.scale_products // 10_000, 1)
    workload = life_cycle(sizes.scale_events, stride=stride)
    large = await large_template(bench, sizes.scale_products, sizes.scale_ledger)
    async with template_for(bench, workload) as template:
        contestants = (
            Contestant("large", workload, programs.worker(), template=large),
            Contestant("empty", workload, programs.worker(), template=template),
        )
        figures = await compare(bench, contestants, sizes.scale_rounds)
    about = f"the life cycle where {sizes.scale_products:,} products have {sizes.scale_ledger:,} ledger entries"
    return Section("scale", about, list(figures.values()), {"large/empty": ratio(figures["large"], figures["empty"])})


async def _against_both(name: str, about: str, bench: Bench, workload: Workload, few: Workload) -> Section:
    """Compare the worker, the floor and the naive program, the last with fewer events of the same kind."""
    async with template_for(bench, workload) as template:
        rehearsal = await rehearsed(bench, workload, template)
        contestants = (
            Contestant("worker", workload, programs.worker(), template=template),
            Contestant("floor", workload, rehearsal=rehearsal, template=template),
            Contestant("naive", few, programs.naive(), template=template),
        )
        figures = await compare(bench, contestants, bench.sizes.rounds)
    ratios = {f"worker/{other}": ratio(figures["worker"], figures[other]) for other in ("naive", "floor")}
    return Section(name, about, list(figures.values()), ratios)


SCENARIOS: Mapping[str, Scenario] = {
    "life": life,
    "hot": hot,
    "carts": carts,
    "csv": csv,
    "workers": workers,
    "batches": batches,
    "levels": levels,
    "scale": scale,
    "latency": latency,
    "memory": memory,
    "relay": relay,
}
