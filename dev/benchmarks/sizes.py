"""How much each scenario does: in a full run (15 minutes), a quick run (a few minutes) and a trial."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """Events, rows and seconds of every scenario."""

    rounds: int = 3
    # The broker's JVM compiles during its first half minute under load, which takes half a core. Brokers run for
    # months, so measuring starts after that.
    warm_up_events: int = 60_000
    events: int = 60_000
    naive_events: int = 1_500
    hot_events: int = 30_000
    cart_events: int = 20_000
    cart_naive_events: int = 1_000
    workers: tuple[int, ...] = (1, 2, 4)
    workers_events: int = 50_000
    batches: tuple[int, ...] = (50, 200, 1000, 2000)
    batches_events: int = 25_000
    scale_rounds: int = 2
    scale_events: int = 40_000
    scale_products: int = 1_000_000
    scale_ledger: int = 10_000_000
    rate: int = 1_000
    latency_warm_up_seconds: int = 20
    latency_seconds: int = 25
    memory_events: int = 1_000_000
    relay_rows: int = 100_000


FULL = Sizes()

QUICK = Sizes(
    rounds=1,
    warm_up_events=15_000,
    events=15_000,
    naive_events=300,
    hot_events=6_000,
    cart_events=5_000,
    cart_naive_events=200,
    workers=(1, 2),
    workers_events=8_000,
    batches=(100, 1000),
    batches_events=5_000,
    scale_rounds=1,
    scale_events=8_000,
    scale_products=100_000,
    scale_ledger=500_000,
    latency_warm_up_seconds=4,
    latency_seconds=6,
    memory_events=40_000,
    relay_rows=20_000,
)

# Only checks that everything still runs; the figures mean nothing.
TRIAL = Sizes(
    rounds=1,
    warm_up_events=100,
    events=300,
    naive_events=20,
    hot_events=200,
    cart_events=200,
    cart_naive_events=20,
    workers=(2,),
    workers_events=200,
    batches=(50,),
    batches_events=200,
    scale_rounds=1,
    scale_events=200,
    scale_products=20_000,
    scale_ledger=40_000,
    rate=100,
    latency_warm_up_seconds=1,
    latency_seconds=3,
    memory_events=1_000,
    relay_rows=500,
)
