"""The scenarios: what is measured, and which ratios it is about."""

from collections.abc import Awaitable, Callable, Mapping

from benchmarks import contestants
from benchmarks.races import Bench, Entry, race, rehearsed, template_for
from benchmarks.report import Section, ratio
from benchmarks.workload import life_cycle

Scenario = Callable[[Bench], Awaitable[Section]]


async def life(bench: Bench) -> Section:
    """Orders created, paid and cancelled over 10,000 products."""
    workload = life_cycle(bench.events)
    template = await template_for(bench, workload)
    rehearsal = await rehearsed(bench, workload, template)
    figures = await race(
        bench,
        (
            Entry("worker", workload, contestants.worker(), template=template),
            Entry("floor", workload, rehearsal=rehearsal, template=template),
            Entry(
                "naive", life_cycle(bench.naive_events, shelf=workload.shelf), contestants.naive(), template=template
            ),
        ),
    )
    bench.stack.drop_template(template)
    ratios = {
        "worker/naive": ratio(figures["worker"], figures["naive"]),
        "worker/floor": ratio(figures["worker"], figures["floor"]),
    }
    return Section(
        "life", "orders of 3 lines over 10,000 products (Zipf), paid or cancelled", list(figures.values()), ratios
    )


SCENARIOS: Mapping[str, Scenario] = {"life": life}
